#include "common/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <system_error>

#include "common/error.h"

namespace espalier::common {
namespace fs = std::filesystem;
namespace {

constexpr int kTempDirAttempts = 16;
constexpr size_t kTempDirSuffix = 6;  // mkdtemp's XXXXXX

[[noreturn]] void fail(const char* operation, const fs::path& path, int error) {
  throw StoreError(std::string(operation) + " " + path.string() + ": " +
                   std::generic_category().message(error));
}

/// Owns a descriptor; close errors on the write path are reported by close_checked().
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int close() {
    const int status = ::close(fd_);
    fd_ = -1;
    return status;
  }

 private:
  int fd_;
};

void write_fully(int fd, std::string_view content, const fs::path& path) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path, errno);
    content.remove_prefix(static_cast<size_t>(n));
  }
}

/// A new file in `directory` that no other writer has; unlike mkstemp, with the permissions the
/// umask leaves.
int create_beside(const fs::path& path, const fs::path& directory, fs::path* temporary) {
  const std::string stem = "." + path.filename().string() + "." + std::to_string(::getpid()) + ".";
  for (int attempt = 0;; ++attempt) {
    *temporary = directory / (stem + std::to_string(attempt));
    const int fd = ::open(temporary->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return fd;
    if (errno != EEXIST) fail("create temporary file beside", path, errno);
  }
}

void sync_directory(const fs::path& directory) {
  Descriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) fail("open directory", directory, errno);
  // Some file systems refuse fsync of a directory; they have nothing to flush.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) fail("fsync directory", directory, errno);
}

/// Removes a tree by descriptors, never following links, giving itself permission where a directory
/// has none.
void remove_entry(int parent, const char* name) {
  if (::unlinkat(parent, name, 0) == 0 || errno == ENOENT) return;
  ::fchmodat(parent, name, 0700, 0);
  const int fd = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(fd), ::closedir);
  if (!directory) return;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string_view child = entry->d_name;
    if (child != "." && child != "..") remove_entry(fd, entry->d_name);
  }
  ::unlinkat(parent, name, AT_REMOVEDIR);
}

}  // namespace

void write_file_atomically(const fs::path& path, std::string_view content) {
  const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
  fs::path temporary;
  Descriptor fd(create_beside(path, directory, &temporary));
  try {
    write_fully(fd.get(), content, path);
    if (::fsync(fd.get()) != 0) fail("fsync", path, errno);
    if (fd.close() != 0) fail("close", path, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(directory);
}

std::string read_file(const fs::path& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) fail("open", path, errno);
  std::string content;
  struct stat info;
  if (::fstat(fd.get(), &info) == 0 && info.st_size > 0) content.reserve(info.st_size);
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path, errno);
    if (n == 0) return content;
    content.append(buffer, static_cast<size_t>(n));
  }
}

AppendFile::AppendFile(fs::path path)
    : path_(std::move(path)),
      fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (fd_ < 0) fail("open for appending", path_, errno);
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view record) { write_fully(fd_, record, path_); }

void AppendFile::sync() {
  // Pipes and the like have nothing to flush.
  if (::fdatasync(fd_) != 0 && errno != EINVAL) fail("fdatasync", path_, errno);
}

namespace {

fs::path temp_base() {
  std::error_code error;
  fs::path base = fs::temp_directory_path(error);
  return error ? fs::path("/tmp") : base;
}

/// The system's directory for shared memory, where it is one.
fs::path memory_base() {
  constexpr const char* kSharedMemory = "/dev/shm";
  struct statfs status {};
  const bool in_memory = ::statfs(kSharedMemory, &status) == 0 && status.f_type == TMPFS_MAGIC &&
                         ::access(kSharedMemory, W_OK | X_OK) == 0;
  return in_memory ? fs::path(kSharedMemory) : temp_base();
}

/// espalier….PID.XXXXXX
bool is_temp_dir_name(const std::string& name) {
  const size_t suffix = name.rfind('.');
  if (!name.starts_with("espalier") || suffix == std::string::npos || suffix == 0 ||
      name.size() - suffix - 1 != kTempDirSuffix)
    return false;
  const size_t pid = name.rfind('.', suffix - 1);
  return pid != std::string::npos && pid + 1 < suffix &&
         name.find_first_not_of("0123456789", pid + 1) == suffix;
}

}  // namespace

TempDir::TempDir(std::string_view prefix, TempPlace place) {
  const fs::path base = place == TempPlace::memory ? memory_base() : temp_base();
  const std::string form =
      (base / (std::string(prefix) + "." + std::to_string(::getpid()) + ".XXXXXX")).string();
  // A sweep may come between making and locking: then once more.
  for (int attempt = 0; attempt < kTempDirAttempts; ++attempt) {
    std::string name = form;
    if (::mkdtemp(name.data()) == nullptr) fail("create temporary directory", name, errno);
    lock_ = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ >= 0) ::flock(lock_, LOCK_EX);
    struct stat status {};
    if (::stat(name.c_str(), &status) == 0) {
      path_ = name;
      return;
    }
    if (lock_ >= 0) ::close(lock_);
  }
  fail("create temporary directory", form, ENOENT);
}

void remove_tree(const fs::path& path) { remove_entry(AT_FDCWD, path.c_str()); }

TempDir::~TempDir() {
  remove_entry(AT_FDCWD, path_.c_str());
  if (lock_ >= 0) ::close(lock_);
}

namespace {

void sweep(const fs::path& base, bool remove, std::vector<fs::path>& abandoned) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(base, ignored)) {
    const std::string name = entry.path().filename();
    if (!is_temp_dir_name(name)) continue;
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    struct stat status {};
    if (::fstat(fd, &status) == 0 && status.st_uid == ::geteuid() &&
        ::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      abandoned.push_back(entry.path());
      if (remove) remove_entry(AT_FDCWD, entry.path().c_str());
    }
    ::close(fd);
  }
}

}  // namespace

std::vector<fs::path> sweep_temp_dirs(bool remove) {
  std::vector<fs::path> abandoned;
  sweep(temp_base(), remove, abandoned);
  if (memory_base() != temp_base()) sweep(memory_base(), remove, abandoned);
  return abandoned;
}

}  // namespace espalier::common
