#include "tree/durable.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::tree {
namespace {

void sync_path(const std::filesystem::path& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  // Some file systems refuse fsync of a directory; they have nothing to flush.
  const bool synced =
      fd >= 0 && (::fsync(fd) == 0 || (errno == EINVAL && (flags & O_DIRECTORY) != 0));
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!synced)
    throw common::StoreError("sync " + path.string() + " to disk: " + std::strerror(error));
}

}  // namespace

void sync_directory(const std::filesystem::path& directory) { sync_path(directory, O_DIRECTORY); }

void replace_durably(const std::filesystem::path& partial, const std::filesystem::path& file) {
  sync_path(partial, 0);
  std::error_code error;
  std::filesystem::rename(partial, file, error);
  if (error)
    throw common::StoreError("rename " + partial.string() + " to " + file.string() + ": " +
                             error.message());
  sync_directory(file.has_parent_path() ? file.parent_path() : ".");
}

}  // namespace espalier::tree
