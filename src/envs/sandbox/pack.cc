#include "envs/sandbox/pack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& what, const fs::path& path) {
  throw common::TaskError(what + " " + path.string() + ": " + std::strerror(errno));
}

std::vector<fs::path> sorted_entries(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(directory, error)) names.push_back(entry.path());
  if (error) throw common::TaskError("list " + directory.string() + ": " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

struct stat stat_of(const fs::path& path) {
  struct stat st;
  if (lstat(path.c_str(), &st)) fail("stat", path);
  return st;
}

std::string read_content(const fs::path& path, const struct stat& st) {
  Fd fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && errno == EACCES && st.st_uid == geteuid()) {
    // A task may hold a file nobody may read; its owner may for a moment.
    chmod(path.c_str(), st.st_mode | S_IRUSR);
    fd.reset(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    chmod(path.c_str(), st.st_mode);
  }
  if (!fd) fail("open", path);
  std::string content(size_t(st.st_size), '\0');
  size_t used = 0;
  while (used < content.size()) {
    ssize_t n = read(fd.get(), content.data() + used, content.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path);
    if (n == 0) break;
    used += size_t(n);
  }
  content.resize(used);
  return content;
}

void pack_entries(const fs::path& directory, const std::string& prefix, uint32_t uid,
                  std::string* out) {
  for (const fs::path& path : sorted_entries(directory)) {
    struct stat st = stat_of(path);
    PackItem item;
    item.path = (prefix.empty() ? "" : prefix + "/") + path.filename().string();
    item.mode = st.st_mode;
    item.uid = item.gid = uid;
    item.mtime_s = st.st_mtim.tv_sec;
    item.mtime_ns = uint32_t(st.st_mtim.tv_nsec);
    if (S_ISREG(st.st_mode)) {
      item.content = read_content(path, st);
    } else if (S_ISLNK(st.st_mode)) {
      item.content = fs::read_symlink(path).string();
    } else if (!S_ISDIR(st.st_mode)) {
      throw common::TaskError("copy " + path.string() +
                              " into a sandbox: only files, directories and symlinks can be");
    }
    append_item(out, item);
    if (S_ISDIR(st.st_mode)) pack_entries(path, item.path, uid, out);
  }
}

void sign_entries(const fs::path& directory, std::string* out) {
  for (const fs::path& path : sorted_entries(directory)) {
    struct stat st = stat_of(path);
    int64_t facts[] = {int64_t(st.st_ino),         int64_t(st.st_dev),
                       int64_t(st.st_mode),        int64_t(st.st_size),
                       int64_t(st.st_ctim.tv_sec), int64_t(st.st_ctim.tv_nsec)};
    *out += path.filename().string();
    out->push_back('\0');
    out->append(reinterpret_cast<const char*>(facts), sizeof facts);
    if (S_ISDIR(st.st_mode)) sign_entries(path, out);
  }
}

void require_directory(const fs::path& directory) {
  struct stat st;
  if (stat(directory.c_str(), &st)) fail("open the directory", directory);
  errno = ENOTDIR;
  if (!S_ISDIR(st.st_mode)) fail("open the directory", directory);
}

}  // namespace

void append_item(std::string* pack, const PackItem& item) {
  wire::PackEntry entry{};
  entry.magic = wire::kPackMagic;
  entry.mode = item.mode;
  entry.uid = item.uid;
  entry.gid = item.gid;
  entry.mtime_s = item.mtime_s;
  entry.mtime_ns = item.mtime_ns;
  entry.flags = item.opaque ? uint32_t{wire::kPackOpaque} : 0;
  entry.size = item.content.size();
  entry.path_bytes = uint32_t(item.path.size());
  pack->append(reinterpret_cast<const char*>(&entry), sizeof entry);
  *pack += item.path;
  *pack += item.content;
}

std::string pack_directory(const fs::path& directory, const std::string& prefix, uint32_t uid) {
  require_directory(directory);
  std::string out;
  pack_entries(directory, prefix, uid, &out);
  return out;
}

std::string directory_signature(const fs::path& directory) {
  require_directory(directory);
  std::string out = fs::absolute(directory).string();
  sign_entries(directory, &out);
  return out;
}

}  // namespace espalier::envs::sandbox
