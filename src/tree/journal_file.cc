#include "tree/journal_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::tree {
namespace {

[[noreturn]] void fail(const char* operation, const std::filesystem::path& path) {
  const int error = errno;
  throw common::StoreError(std::string(operation) + " " + path.string() + ": " +
                           std::strerror(error));
}

}  // namespace

AppendFile::AppendFile(const std::filesystem::path& file, uint64_t keep_bytes)
    : path_(file), size_(keep_bytes) {
  fd_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("open journal file", file);
  if (::ftruncate(fd_, static_cast<off_t>(keep_bytes)) != 0 ||
      ::lseek(fd_, static_cast<off_t>(keep_bytes), SEEK_SET) < 0) {
    const int error = errno;
    ::close(fd_);
    errno = error;
    fail("cut journal file", file);
  }
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("append to journal file", path_);
    bytes.remove_prefix(static_cast<size_t>(written));
    size_ += static_cast<uint64_t>(written);
  }
}

void AppendFile::sync() {
  if (::fdatasync(fd_) != 0) fail("fdatasync of journal file", path_);
}

JournalLock::JournalLock(const std::filesystem::path& directory) {
  const auto file = directory / "LOCK";
  fd_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("open journal lock", file);
  // A record lock, not flock(): it is not inherited, so a child left behind never holds the run.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd_, F_SETLK, &lock) == 0) return;
  const int error = errno;
  ::close(fd_);
  if (error == EACCES || error == EAGAIN)
    throw common::StoreError("open journal " + directory.string() +
                             ": another process is writing it");
  errno = error;
  fail("lock", file);
}

JournalLock::~JournalLock() { ::close(fd_); }

}  // namespace espalier::tree
