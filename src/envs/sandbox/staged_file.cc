#include "envs/sandbox/staged_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kFlushBytes = 8 << 20;

[[noreturn]] void fail(const std::string& what, const fs::path& path) {
  throw common::StoreError(what + " " + path.string() + ": " + std::strerror(errno));
}

}  // namespace

StagedFile::StagedFile(const fs::path& directory) {
  static std::atomic<uint64_t> count{0};
  do {
    path_ = directory /
            (std::string(kStagedPrefix) + std::to_string(getpid()) + "-" + std::to_string(count++));
    fd_.reset(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  } while (!fd_ && errno == EEXIST);
  if (!fd_) fail("create", path_);
}

StagedFile::~StagedFile() {
  if (fd_) unlink(path_.c_str());
}

void StagedFile::append(std::string_view bytes) {
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    ssize_t n = write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path_);
    bytes.remove_prefix(size_t(n));
  }
  if (bytes_ - flushed_ < kFlushBytes) return;
  // The disk begins while the rest is still being made: less is left to wait for.
  sync_file_range(fd_.get(), off64_t(flushed_), off64_t(bytes_ - flushed_), SYNC_FILE_RANGE_WRITE);
  flushed_ = bytes_;
}

void StagedFile::sync() {
  if (fsync(fd_.get())) fail("sync", path_);
}

void StagedFile::rename_to(const fs::path& path) {
  if (rename(path_.c_str(), path.c_str())) fail("rename to", path);
  fd_.reset();
}

void sync_directory(const fs::path& directory) {
  Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) fail("open the directory", directory);
  // Some file systems refuse fsync of a directory; they have nothing to flush.
  if (fsync(fd.get()) && errno != EINVAL) fail("sync the directory", directory);
}

}  // namespace espalier::envs::sandbox
