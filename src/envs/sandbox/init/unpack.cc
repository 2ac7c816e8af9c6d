#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "envs/sandbox/init/pack.h"
#include "envs/sandbox/init/xattrs.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr uint64_t kSpliceBytes = 64 * 1024;

/// The stream, read in large pieces.
class Source {
 public:
  explicit Source(int fd) : fd_(fd) {}
  /// False at the end of the stream, or with an error.
  bool fill() {
    if (at_ < end_) return true;
    ssize_t n;
    do {
      n = read(fd_, buffer_, kBufferBytes);
    } while (n < 0 && errno == EINTR);
    at_ = 0;
    end_ = n < 0 ? 0 : size_t(n);
    if (n == 0) errno = 0;
    return n > 0;
  }
  bool take(void* data, size_t size) {
    char* to = static_cast<char*>(data);
    while (size) {
      if (!fill()) return cut_short();
      size_t n = size < end_ - at_ ? size : end_ - at_;
      memcpy(to, buffer_ + at_, n);
      at_ += n;
      to += n;
      size -= n;
    }
    return true;
  }
  /// Writes the next `size` bytes to a file.
  bool copy(int to, uint64_t size) {
    while (size) {
      if (at_ == end_ && size >= kSpliceBytes && splices_) {
        ssize_t n = splice(fd_, nullptr, to, nullptr, size, 0);
        if (n == 0) errno = 0;
        if (n == 0) return cut_short();
        if (n < 0 && errno != EINTR && errno != EINVAL) return false;
        if (n < 0) splices_ = errno == EINTR;
        if (n > 0) size -= uint64_t(n);
        continue;
      }
      if (!fill()) return cut_short();
      size_t n = size < end_ - at_ ? size_t(size) : end_ - at_;
      if (!write_exact(to, buffer_ + at_, n)) return false;
      at_ += n;
      size -= n;
    }
    return true;
  }

 private:
  static bool cut_short() {
    if (!errno) errno = ENODATA;
    return false;
  }
  static inline char buffer_[kBufferBytes];
  int fd_;
  size_t at_ = 0, end_ = 0;
  bool splices_ = true;  // until it is found that the stream is not a pipe
};

/// Relative, without empty parts, "." and "..".
bool is_plain(const char* path, size_t length) {
  if (strlen(path) != length) return false;
  for (const char* part = path;;) {
    const char* slash = strchr(part, '/');
    size_t n = slash ? size_t(slash - part) : strlen(part);
    if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
      return false;
    if (!slash) return true;
    part = slash + 1;
  }
}

bool has_mark(int dir, const char* xattr) {
  char mark = 0;
  return xattr && fgetxattr(dir, xattr, &mark, 1) == 1 && mark == 'y';
}

/// Opens the directory that holds `path` without following symlinks; name is set to the last
/// component, hidden to whether a directory above is opaque.
int open_parent(const PackTarget& target, char* path, const char** name, bool* hidden) {
  int dir = openat(target.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  char* part = path;
  for (char* slash; dir >= 0 && (slash = strchr(part, '/')); part = slash + 1) {
    *slash = 0;
    int next = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int saved = errno;
    close(dir);
    errno = saved;
    *slash = '/';
    dir = next;
    if (hidden && dir >= 0) *hidden = *hidden || has_mark(dir, target.opaque_xattr);
  }
  *name = part;
  return dir;
}

class Unpacking {
 public:
  Unpacking(int fd, const PackTarget& target, Failure* failure)
      : in_(fd), target_(target), failure_(failure) {}

  bool run() {
    bool ended = false;
    while (in_.fill()) {
      if (!in_.take(&entry_, sizeof entry_)) return failure_->set("unpack: read");
      ended = entry_.magic == wire::kPackEnd;
      if (!ended && !entry()) return false;
    }
    if (errno) return failure_->set("unpack: read");
    errno = ENODATA;
    return ended || !target_.ended || failure_->set("unpack: the pack has no end");
  }

 private:
  bool entry();
  bool make(int dir, const char* name, bool hidden);
  bool make_directory(int dir, const char* name);
  bool make_file(int dir, const char* name);
  bool fill_sparse(int out);
  bool make_link(int dir, const char* name);
  bool make_symlink(int dir, const char* name);
  bool set_attributes(int fd, bool replace_xattrs);
  bool set_attributes_at(int dir, const char* name);
  bool empty(int dir, const char* name);

  static inline char xattrs_[wire::kPackMaxXattrBytes];
  Source in_;
  const PackTarget& target_;
  Failure* failure_;
  Failure step_;
  wire::PackEntry entry_{};
  char path_[PATH_MAX];
};

/// Of an open file or directory. Changing the owner clears capabilities and set-id bits, so it
/// comes first.
bool Unpacking::set_attributes(int fd, bool replace_xattrs) {
  uint32_t shift = target_.uid_base;
  if (target_.keep_owner && fchown(fd, shift + entry_.uid, shift + entry_.gid))
    return step_.set("chown to %u:%u", shift + entry_.uid, shift + entry_.gid);
  if ((entry_.xattr_bytes || replace_xattrs) &&
      !set_xattrs(fd, xattrs_, entry_.xattr_bytes, target_.id_shift(), replace_xattrs))
    return step_.set("set its extended attributes");
  if ((entry_.flags & wire::kPackOpaque) && target_.opaque_xattr &&
      fsetxattr(fd, target_.opaque_xattr, "y", 1, 0))
    return step_.set("opaque mark");
  if (fchmod(fd, entry_.mode & 07777)) return step_.set("chmod");
  timespec times[2] = {{entry_.mtime_s, entry_.mtime_ns}, {entry_.mtime_s, entry_.mtime_ns}};
  if (entry_.mtime_s || entry_.mtime_ns) futimens(fd, times);
  return true;
}

/// Of what is not opened.
bool Unpacking::set_attributes_at(int dir, const char* name) {
  uint32_t uid = target_.uid_base + entry_.uid, gid = target_.uid_base + entry_.gid;
  if (target_.keep_owner && fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW))
    return step_.set("chown to %u:%u", uid, gid);
  if (S_ISFIFO(entry_.mode) && fchmodat(dir, name, entry_.mode & 07777, 0))
    return step_.set("chmod");
  timespec times[2] = {{entry_.mtime_s, entry_.mtime_ns}, {entry_.mtime_s, entry_.mtime_ns}};
  if (entry_.mtime_s || entry_.mtime_ns) utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
  return true;
}

/// Removes a directory's content by removing it and making it again.
bool Unpacking::empty(int dir, const char* name) {
  return (remove_tree(dir, name) && mkdirat(dir, name, 0700) == 0) || step_.set("empty");
}

bool Unpacking::make_directory(int dir, const char* name) {
  struct stat st;
  bool there = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
  bool kept = there && S_ISDIR(st.st_mode);
  if (kept && (entry_.flags & wire::kPackOpaque)) {
    if (!empty(dir, name)) return false;
  } else if (!kept) {
    // What an earlier pack hid stays hidden.
    if (there && target_.base_has(path_, &st)) entry_.flags |= wire::kPackOpaque;
    if (!remove_tree(dir, name)) return step_.set("replace");
    if (mkdirat(dir, name, 0700)) return step_.set("mkdir");
  }
  int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return step_.set("open");
  bool done = set_attributes(fd, kept && target_.base_count > 0);
  close(fd);
  return done;
}

bool Unpacking::fill_sparse(int out) {
  if (entry_.size > uint64_t(INT64_MAX) || ftruncate(out, off_t(entry_.size)))
    return step_.set("set its size");
  for (uint64_t at = 0;;) {
    wire::PackSegment segment;
    if (!in_.take(&segment, sizeof segment)) return step_.set("read");
    if (segment.bytes == 0) return true;
    errno = EINVAL;
    if (segment.offset < at || segment.bytes > entry_.size ||
        segment.offset > entry_.size - segment.bytes)
      return step_.set("damaged segment");
    at = segment.offset + segment.bytes;
    if (lseek(out, off_t(segment.offset), SEEK_SET) < 0 || !in_.copy(out, segment.bytes))
      return step_.set("write");
  }
}

bool Unpacking::make_file(int dir, const char* name) {
  if (!remove_tree(dir, name)) return step_.set("replace");
  int out = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (out < 0) return step_.set("create");
  bool done = (entry_.flags & wire::kPackSparse) ? fill_sparse(out)
                                                 : in_.copy(out, entry_.size) || step_.set("write");
  done = done && set_attributes(out, false);
  close(out);
  return done;
}

bool Unpacking::make_symlink(int dir, const char* name) {
  char to[PATH_MAX];
  errno = ENAMETOOLONG;
  if (entry_.size >= sizeof to || !in_.take(to, entry_.size)) return step_.set("symlink");
  to[entry_.size] = 0;
  if (!remove_tree(dir, name)) return step_.set("replace");
  return (symlinkat(to, dir, name) == 0 || step_.set("symlink")) && set_attributes_at(dir, name);
}

bool Unpacking::make_link(int dir, const char* name) {
  char first[PATH_MAX];
  errno = ENAMETOOLONG;
  if (entry_.size >= sizeof first || !in_.take(first, entry_.size)) return step_.set("link");
  first[entry_.size] = 0;
  errno = EINVAL;
  if (!is_plain(first, entry_.size)) return step_.set("damaged entry");
  if (!strcmp(first, path_)) return step_.set("linked to itself");
  if (!remove_tree(dir, name)) return step_.set("replace");
  const char* first_name = nullptr;
  int first_dir = open_parent(target_, first, &first_name, nullptr);
  bool done = first_dir >= 0 && linkat(first_dir, first_name, dir, name, 0) == 0;
  if (!done) step_.set("link to %.200s", first);
  if (first_dir >= 0) close(first_dir);
  return done;
}

bool Unpacking::make(int dir, const char* name, bool hidden) {
  if (S_ISDIR(entry_.mode)) return make_directory(dir, name);
  if (S_ISREG(entry_.mode))
    return (entry_.flags & wire::kPackHardLink) ? make_link(dir, name) : make_file(dir, name);
  if (S_ISLNK(entry_.mode)) return make_symlink(dir, name);
  errno = EINVAL;
  if (!S_ISCHR(entry_.mode) && !S_ISFIFO(entry_.mode)) return step_.set("damaged entry");
  if (!remove_tree(dir, name)) return step_.set("replace");
  // overlay hides whiteouts only in directories that it merges: one too many would be listed.
  struct stat st;
  if (S_ISCHR(entry_.mode) && !target_.exact && (hidden || !target_.base_has(path_, &st)))
    return true;
  mode_t mode = S_ISCHR(entry_.mode) ? mode_t{S_IFCHR} : entry_.mode;
  return (mknodat(dir, name, mode, 0) == 0 || step_.set("mknod")) && set_attributes_at(dir, name);
}

bool Unpacking::entry() {
  errno = EINVAL;
  if (entry_.magic != wire::kPackMagic || entry_.path_bytes == 0 ||
      entry_.path_bytes >= sizeof path_ || entry_.xattr_bytes > sizeof xattrs_)
    return failure_->set("unpack: damaged entry");
  if (!in_.take(path_, entry_.path_bytes) || !in_.take(xattrs_, entry_.xattr_bytes))
    return failure_->set("unpack: read");
  path_[entry_.path_bytes] = 0;
  bool done;
  if (!strcmp(path_, ".")) {
    done = set_attributes(target_.dir_fd, false);
  } else {
    errno = EINVAL;
    if (!is_plain(path_, entry_.path_bytes))
      return failure_->set("unpack %.200s: not a plain relative path", path_);
    const char* name = nullptr;
    bool hidden = false;
    int dir = open_parent(target_, path_, &name, &hidden);
    if (dir < 0) return failure_->set("unpack %.200s: open its directory", path_);
    done = make(dir, name, hidden);
    close(dir);
  }
  if (done) return true;
  failure_->error = step_.error;
  snprintf(failure_->text, sizeof failure_->text, "unpack %.200s: %.200s", path_, step_.text);
  return false;
}

}  // namespace

bool unpack(int fd, const PackTarget& target, Failure* failure) {
  return Unpacking(fd, target, failure).run();
}

}  // namespace espalier::envs::init
