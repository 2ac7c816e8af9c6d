#include "tree/journal_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::tree {

JournalLock::JournalLock(const std::filesystem::path& directory) {
  const auto file = directory / "LOCK";
  fd_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0)
    throw common::StoreError("open journal lock " + file.string() + ": " + std::strerror(errno));
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
  throw common::StoreError("lock " + file.string() + ": " + std::strerror(error));
}

JournalLock::~JournalLock() { ::close(fd_); }

}  // namespace espalier::tree
