#include "envs/image/layer_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "common/error.h"

namespace espalier::envs::image {
namespace {

using sandbox::Fd;

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kWhiteoutSpecial = ".wh..wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
constexpr uint32_t kHighestId = 65535;  // a sandbox's user namespace has no more
constexpr uint32_t kNobody = 65534;

bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

std::string pathname_of(archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  if (!name) name = archive_entry_pathname_utf8(entry);
  return name ? name : "";
}

std::string joined(const std::vector<std::string>& parts, size_t count) {
  std::string path;
  for (size_t i = 0; i < count; ++i) path += (i ? "/" : "") + parts[i];
  return path;
}

}  // namespace

std::vector<std::string> member_parts(const std::string& name) {
  if (name.empty()) throw std::invalid_argument("has no name");
  if (name[0] == '/') throw std::invalid_argument("has an absolute path");
  std::vector<std::string> parts;
  for (size_t at = 0; at <= name.size();) {
    size_t end = std::min(name.find('/', at), name.size());
    std::string part = name.substr(at, end - at);
    if (part == "..") throw std::invalid_argument("has '..' in its path");
    if (!part.empty() && part != ".") parts.push_back(std::move(part));
    at = end + 1;
  }
  return parts;
}

struct LayerWriter::Member {
  std::string shown;               // the name as the archive has it
  std::vector<std::string> parts;  // empty: the root itself
  const std::string& name() const { return parts.back(); }
  std::string path() const { return joined(parts, parts.size()); }
};

LayerWriter::LayerWriter(const std::filesystem::path& directory, LayerWriterOptions options)
    : options_(std::move(options)), directory_(directory) {
  root_.reset(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root_) throw common::StoreError("open " + directory.string() + ": " + std::strerror(errno));
  if (options_.format.keep_owners &&
      fchown(root_.get(), options_.format.uid_base, options_.format.uid_base))
    throw common::StoreError("chown " + directory.string() + ": " + std::strerror(errno));
}

void LayerWriter::refuse(const Member& member, const std::string& why) const {
  throw common::TaskError(options_.source + ": member '" + member.shown + "' " + why);
}

void LayerWriter::fail(const Member& member, const char* operation) const {
  int error = errno;
  throw common::StoreError(options_.source + ": member '" + member.shown + "': " + operation +
                           " below " + directory_.string() + ": " + std::strerror(error));
}

LayerWriter::Member LayerWriter::member_of(archive_entry* entry) const {
  Member member;
  member.shown = pathname_of(entry);
  try {
    member.parts = member_parts(member.shown);
  } catch (const std::invalid_argument& wrong) {
    refuse(member, wrong.what());
  }
  return member;
}

/// The directory the member goes into, made where it is missing; no symbolic link is followed.
int LayerWriter::parent_of(const Member& member) {
  size_t depth = member.parts.size() - 1;
  if (parent_ && parent_parts_.size() == depth &&
      std::equal(parent_parts_.begin(), parent_parts_.end(), member.parts.begin()))
    return parent_.get();
  Fd at(openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  for (size_t i = 0; i < depth; ++i) {
    const std::string& part = member.parts[i];
    Fd next(openat(at.get(), part.c_str(), kFlags));
    struct stat st;
    if (!next && (fstatat(at.get(), part.c_str(), &st, AT_SYMLINK_NOFOLLOW) || is_whiteout(st))) {
      make_directory(at.get(), member, part);
      next.reset(openat(at.get(), part.c_str(), kFlags));
    } else if (!next && S_ISLNK(st.st_mode)) {
      refuse(member, "lies behind the symbolic link '" + joined(member.parts, i + 1) + "'");
    } else if (!next && !S_ISDIR(st.st_mode)) {
      refuse(member, "lies below '" + joined(member.parts, i + 1) + "', which is no directory");
    }
    if (!next) fail(member, "open its directory");
    at = std::move(next);
  }
  parent_ = std::move(at);
  parent_parts_.assign(member.parts.begin(), member.parts.end() - 1);
  return parent_.get();
}

void LayerWriter::add(archive* in, archive_entry* entry) {
  Member member = member_of(entry);
  auto type = archive_entry_filetype(entry);
  if (member.parts.empty()) {
    if (type != AE_IFDIR) refuse(member, "is the root and no directory");
    return;
  }
  bool device = type == AE_IFCHR || type == AE_IFBLK;
  if (device && !archive_entry_hardlink(entry)) {
    if (options_.skip_devices) return;
    refuse(member,
           "is a device node; a sandbox has its own /dev: leave it out "
           "(tar --exclude='./dev/*')");
  }
  int parent = parent_of(member);
  if (options_.whiteouts && member.name().starts_with(kWhiteout))
    return add_whiteout(parent, member);
  if (const char* target = archive_entry_hardlink(entry))
    return add_hard_link(parent, member, target);
  if (type == AE_IFDIR) return add_directory(parent, member, entry);
  if (type == AE_IFREG) return add_file(parent, member, in, entry);
  if (type == AE_IFLNK || type == AE_IFIFO) return add_special(parent, member, entry);
  if (type != AE_IFSOCK) refuse(member, "is of an unknown type");
}

/// A directory that takes the place of a whiteout hides what lies below it.
void LayerWriter::make_directory(int parent, const Member& member, const std::string& name) {
  bool hides = false;
  if (mkdirat(parent, name.c_str(), 0755)) {
    struct stat st;
    if (errno != EEXIST || fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW))
      fail(member, "mkdir");
    if (S_ISDIR(st.st_mode)) return;
    hides = is_whiteout(st);
    if (unlinkat(parent, name.c_str(), 0) || mkdirat(parent, name.c_str(), 0755))
      fail(member, "mkdir");
  }
  own(parent, name, 0, 0, member);
  if (hides) make_opaque(parent, name, member);
}

void LayerWriter::add_directory(int parent, const Member& member, archive_entry* entry) {
  make_directory(parent, member, member.name());
  own(parent, member.name(), archive_entry_uid(entry), archive_entry_gid(entry), member);
  // Modes and times come last: a directory without write permission must still be filled.
  directories_[member.path()] = {mode_t(archive_entry_perm(entry)),
                                 {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)}};
}

void LayerWriter::add_file(int parent, const Member& member, archive* in, archive_entry* entry) {
  make_way(parent, member);
  Fd file(openat(parent, member.name().c_str(),
                 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) fail(member, "create");
  const void* block = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  int result;
  while ((result = archive_read_data_block(in, &block, &size, &offset)) == ARCHIVE_OK) {
    for (size_t done = 0; done < size;) {
      ssize_t n = pwrite(file.get(), static_cast<const char*>(block) + done, size - done,
                         off_t(offset) + off_t(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(member, "write");
      done += size_t(n);
    }
  }
  if (result != ARCHIVE_EOF) {
    const char* why = archive_error_string(in);
    refuse(member, std::string("cannot be read: ") + (why ? why : "the archive is damaged"));
  }
  if (ftruncate(file.get(), archive_entry_size(entry))) fail(member, "truncate");
  set_attributes(parent, member, entry);
  const char* name = nullptr;
  const void* value = nullptr;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    std::string_view attribute = name;
    // Only what any user may set, and nothing that means something to overlay.
    if (attribute.starts_with("user.") && !attribute.starts_with("user.overlay."))
      fsetxattr(file.get(), name, value, size, 0);
  }
}

void LayerWriter::add_hard_link(int parent, const Member& member, const std::string& target) {
  std::vector<std::string> parts;
  try {
    parts = member_parts(target);
  } catch (const std::invalid_argument& wrong) {
    refuse(member, "is a hard link to '" + target + "', which " + wrong.what());
  }
  Fd at(openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (size_t i = 0; at && i + 1 < parts.size(); ++i)
    at.reset(openat(at.get(), parts[i].c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!at || parts.empty() || fstatat(at.get(), parts.back().c_str(), &st, AT_SYMLINK_NOFOLLOW) ||
      S_ISDIR(st.st_mode))
    refuse(member, "is a hard link to '" + target + "', which is no file that came before it");
  if (parts == member.parts) return;
  make_way(parent, member);
  if (linkat(at.get(), parts.back().c_str(), parent, member.name().c_str(), 0))
    fail(member, "link");
}

void LayerWriter::add_special(int parent, const Member& member, archive_entry* entry) {
  make_way(parent, member);
  const char* name = member.name().c_str();
  if (archive_entry_filetype(entry) == AE_IFIFO) {
    if (mkfifoat(parent, name, 0600)) fail(member, "mkfifo");
  } else {
    const char* target = archive_entry_symlink(entry);
    if (!target) target = archive_entry_symlink_utf8(entry);
    if (!target || !*target) refuse(member, "is a symbolic link without a target");
    if (symlinkat(target, parent, name)) fail(member, "symlink");
  }
  set_attributes(parent, member, entry);
}

void LayerWriter::add_whiteout(int parent, const Member& member) {
  if (member.name() == kOpaque) return make_opaque(parent, ".", member);
  if (member.name().starts_with(kWhiteoutSpecial)) return;  // marks of an older union file system
  std::string name = member.name().substr(kWhiteout.size());
  if (name.empty() || name == "." || name == "..") refuse(member, "is a whiteout of nothing");
  struct stat st;
  if (fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    // It hides what lower layers have, not what this one brings.
    if (S_ISDIR(st.st_mode)) make_opaque(parent, name, member);
    return;
  }
  if (mknodat(parent, name.c_str(), S_IFCHR, makedev(0, 0))) fail(member, "make a whiteout");
}

void LayerWriter::make_opaque(int parent, const std::string& name, const Member& member) {
  Fd directory(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory || fsetxattr(directory.get(), options_.format.opaque_xattr(), "y", 1, 0))
    fail(member, "mark a directory as opaque (the file system must take extended attributes)");
}

/// Removes what an earlier member of the same name has put there.
void LayerWriter::make_way(int parent, const Member& member) {
  struct stat st;
  if (fstatat(parent, member.name().c_str(), &st, AT_SYMLINK_NOFOLLOW)) return;
  if (S_ISDIR(st.st_mode)) refuse(member, "takes the place of a directory of the same archive");
  if (unlinkat(parent, member.name().c_str(), 0)) fail(member, "replace");
}

void LayerWriter::own(int parent, const std::string& name, int64_t uid, int64_t gid,
                      const Member& member) {
  if (!options_.format.keep_owners) return;
  auto outside = [&](int64_t id) {
    return options_.format.uid_base + (id < 0 || id > kHighestId ? kNobody : uint32_t(id));
  };
  if (fchownat(parent, name.c_str(), outside(uid), outside(gid), AT_SYMLINK_NOFOLLOW))
    fail(member, "chown");
}

void LayerWriter::set_attributes(int parent, const Member& member, archive_entry* entry) {
  const char* name = member.name().c_str();
  own(parent, member.name(), archive_entry_uid(entry), archive_entry_gid(entry), member);
  if (archive_entry_filetype(entry) != AE_IFLNK &&
      fchmodat(parent, name, archive_entry_perm(entry) & 07777, 0))
    fail(member, "chmod");
  timespec times[2] = {{0, UTIME_NOW},
                       {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)}};
  if (utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW)) fail(member, "set the time");
}

void LayerWriter::finish() {
  // What lies deeper first: its parent may be closed afterwards.
  for (auto entry = directories_.rbegin(); entry != directories_.rend(); ++entry) {
    const auto& [path, attributes] = *entry;
    Member member{path, {path}};
    timespec times[2] = {{0, UTIME_NOW}, attributes.modified};
    struct stat st;
    if (fstatat(root_.get(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(st.st_mode))
      refuse(member, "is a directory and something else in the same archive");
    if (utimensat(root_.get(), path.c_str(), times, AT_SYMLINK_NOFOLLOW))
      fail(member, "set the time");
    if (fchmodat(root_.get(), path.c_str(), attributes.mode & 07777, 0)) fail(member, "chmod");
  }
  directories_.clear();
}

}  // namespace espalier::envs::image
