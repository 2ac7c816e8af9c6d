#include "tree/file_system.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "common/error.h"

namespace espalier::tree {
namespace {

[[noreturn]] void fail(const char* operation, const std::filesystem::path& path, int error) {
  std::string message = std::string(operation) + " " + path.string() + ": " + std::strerror(error);
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    message += "; make room, then go on with --resume: what was acknowledged before is kept";
  throw common::StoreError(message);
}

// A log is not read while it is written: once it is on disk, its pages are given back, so that the
// next ones are as cheap as the first. Not after every sync: a reader may follow.
constexpr uint64_t kDropBytes = uint64_t{8} << 20;

class PosixFile : public OutputFile {
 public:
  PosixFile(const std::filesystem::path& file, uint64_t keep_bytes)
      : path_(file),
        fd_(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)),
        size_(keep_bytes),
        dropped_(keep_bytes) {
    if (fd_ < 0) fail("open for appending", file, errno);
    if (::ftruncate(fd_, static_cast<off_t>(keep_bytes)) == 0 &&
        ::lseek(fd_, static_cast<off_t>(keep_bytes), SEEK_SET) >= 0)
      return;
    const int error = errno;
    ::close(fd_);
    fail("cut", file, error);
  }
  ~PosixFile() override { ::close(fd_); }
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  void append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("append to", path_, errno);
      bytes.remove_prefix(static_cast<size_t>(written));
      size_ += static_cast<uint64_t>(written);
    }
  }

  void sync() override {
    const uint64_t synced = size_;
    if (::fdatasync(fd_) != 0) fail("fdatasync of", path_, errno);
    if (synced - dropped_ < kDropBytes) return;
    ::posix_fadvise(fd_, static_cast<off_t>(dropped_), static_cast<off_t>(synced - dropped_),
                    POSIX_FADV_DONTNEED);
    dropped_ = synced;
  }

 private:
  std::filesystem::path path_;
  int fd_;
  std::atomic<uint64_t> size_;  // the syncing thread reads it
  uint64_t dropped_;            // the syncing thread's own
};

class PosixFiles : public FileSystem {
 public:
  std::unique_ptr<OutputFile> open(const std::filesystem::path& file,
                                   uint64_t keep_bytes) override {
    return std::make_unique<PosixFile>(file, keep_bytes);
  }

  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return;
    const int error = errno;
    fail("rename", from.string() + " to " + to.string(), error);
  }

  void sync_directory(const std::filesystem::path& directory) override {
    const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // Some file systems refuse fsync of a directory; they have nothing to flush.
    const bool synced = fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL);
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (!synced) fail("sync directory", directory, error);
  }
};

}  // namespace

FileSystem& posix_files() {
  static PosixFiles files;
  return files;
}

void replace_durably(FileSystem& files, const std::filesystem::path& file,
                     std::string_view content) {
  const std::filesystem::path partial = file.string() + ".partial";
  try {
    const auto out = files.open(partial, 0);
    out->append(content);
    out->sync();
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
  files.rename(partial, file);
  files.sync_directory(file.has_parent_path() ? file.parent_path() : ".");
}

}  // namespace espalier::tree
