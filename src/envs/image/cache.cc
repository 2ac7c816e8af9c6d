#include "envs/image/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "common/error.h"
#include "common/files.h"

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;
using sandbox::Fd;

constexpr const char* kVersion = "1";
constexpr auto kLockPause = std::chrono::milliseconds(20);

[[noreturn]] void fail(const std::string& operation, const fs::path& path, int error) {
  throw common::StoreError("image cache: " + operation + " " + path.string() + ": " +
                           std::strerror(error));
}

fs::path new_name(const fs::path& directory) {
  static std::atomic<unsigned> count{0};
  return directory / (std::to_string(getpid()) + "-" + std::to_string(count++));
}

}  // namespace

Cache::Cache(const fs::path& directory, const LayerFormat& format,
             const std::atomic<bool>& cancelled)
    : base_(directory /
            (std::string(kVersion) +
             (format.keep_owners ? "-root-" + std::to_string(format.uid_base) : "-user"))),
      cancelled_(&cancelled) {
  if (directory.empty())
    throw common::StoreError(
        "image cache: neither $XDG_CACHE_HOME nor ~/.cache can be written to; set XDG_CACHE_HOME "
        "to "
        "a directory that can");
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail("make", directory, error.value());
  // Programs with set-user-id bits may lie in it.
  if (chmod(directory.c_str(), 0700)) fail("chmod", directory, errno);
  for (const char* name : {"layers", "index", "tmp", "locks"}) {
    fs::create_directories(base_ / name, error);
    if (error) fail("make", base_ / name, error.value());
  }
  sweep();
}

bool Cache::has_layer(const std::string& key) const {
  std::error_code error;
  return fs::is_directory(layer(key), error);
}

/// A scratch directory that nobody has locked is a killed process's.
void Cache::sweep() const {
  Fd held = lock("scratch");
  std::error_code error;
  for (fs::directory_iterator entry(base_ / "tmp", error), end; !error && entry != end;
       entry.increment(error)) {
    Fd directory(open(entry->path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory && flock(directory.get(), LOCK_EX | LOCK_NB) == 0)
      common::remove_tree(entry->path());
  }
}

Cache::Scratch::Scratch(const Cache& cache) : path_(new_name(cache.base_ / "tmp")) {
  Fd gate = cache.lock("scratch");
  common::remove_tree(path_);
  if (mkdir(path_.c_str(), 0700)) fail("mkdir", path_, errno);
  lock_.reset(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock_ || flock(lock_.get(), LOCK_EX | LOCK_NB)) fail("lock", path_, errno);
}

Cache::Scratch::~Scratch() { common::remove_tree(path_); }

void Cache::commit(const fs::path& made, const std::string& key) const {
  Fd directory(open(made.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || syncfs(directory.get())) fail("sync", made, errno);
  std::error_code error;
  fs::rename(made, layer(key), error);
  if (error && !has_layer(key)) fail("rename to", layer(key), error.value());
  Fd parent(open((base_ / "layers").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || fsync(parent.get())) fail("sync", base_ / "layers", errno);
}

sandbox::Fd Cache::lock(const std::string& name) const {
  fs::path path = base_ / "locks" / name;
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) fail("open", path, errno);
  while (flock(fd.get(), LOCK_EX | LOCK_NB)) {
    if (errno != EWOULDBLOCK && errno != EINTR) fail("lock", path, errno);
    if (*cancelled_) throw common::Cancelled("waiting for another process's image was cancelled");
    std::this_thread::sleep_for(kLockPause);
  }
  return fd;
}

std::optional<std::string> Cache::read_index(const std::string& key) const {
  fs::path path = base_ / "index" / (key + ".json");
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  return common::read_file(path);
}

void Cache::write_index(const std::string& key, const std::string& content) const {
  common::write_file_atomically(base_ / "index" / (key + ".json"), content);
}

}  // namespace espalier::envs::image
