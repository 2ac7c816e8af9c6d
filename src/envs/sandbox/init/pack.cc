#include "envs/sandbox/init/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "envs/sandbox/wire.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kChunk = 64 * 1024;

/// Opens the directory that holds `path` without following symlinks; name is set to the last
/// component.
int open_parent(int root, char* path, const char** name) {
  int dir = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  char* part = path;
  for (char* slash; dir >= 0 && (slash = strchr(part, '/')); part = slash + 1) {
    *slash = 0;
    int next = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int saved = errno;
    close(dir);
    errno = saved;
    *slash = '/';
    dir = next;
  }
  *name = part;
  return dir;
}

bool skeleton_has(const PackTarget& target, const char* path) {
  struct stat st;
  return target.skeleton_fd >= 0 &&
         fstatat(target.skeleton_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

bool copy_bytes(int from, int to, uint64_t size, Failure* failure) {
  static char buffer[kChunk];
  while (size) {
    size_t n = size < kChunk ? size_t(size) : kChunk;
    if (!read_exact(from, buffer, n)) return failure->set("read");
    if (!write_exact(to, buffer, n)) return failure->set("write");
    size -= n;
  }
  return true;
}

bool make_node(int fd, int dir, const char* name, const wire::PackEntry& e, Failure* failure) {
  if (S_ISDIR(e.mode)) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) return true;
  }
  if (!remove_tree(dir, name)) return failure->set("replace");
  if (S_ISDIR(e.mode)) return mkdirat(dir, name, 0700) == 0 || failure->set("mkdir");
  if (S_ISREG(e.mode)) {
    int out = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out < 0) return failure->set("create");
    bool done = copy_bytes(fd, out, e.size, failure);
    close(out);
    return done;
  }
  if (S_ISLNK(e.mode)) {
    char target[PATH_MAX];
    errno = ENAMETOOLONG;
    if (e.size >= sizeof target || !read_exact(fd, target, e.size)) return failure->set("symlink");
    target[e.size] = 0;
    return symlinkat(target, dir, name) == 0 || failure->set("symlink");
  }
  if (S_ISCHR(e.mode)) return mknodat(dir, name, S_IFCHR, 0) == 0 || failure->set("whiteout");
  return mknodat(dir, name, e.mode, 0) == 0 || failure->set("mknod");
}

bool set_attributes(int dir, const char* name, const wire::PackEntry& e, const PackTarget& target,
                    Failure* failure) {
  uint32_t base = target.uid_base;
  if (target.keep_owner && fchownat(dir, name, base + e.uid, base + e.gid, AT_SYMLINK_NOFOLLOW))
    return failure->set("chown to %u:%u", base + e.uid, base + e.gid);
  if (S_ISLNK(e.mode)) return true;
  if ((e.flags & wire::kPackOpaque) && target.opaque_xattr) {
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool done = fd >= 0 && fsetxattr(fd, target.opaque_xattr, "y", 1, 0) == 0;
    if (!done) failure->set("opaque mark");
    if (fd >= 0) close(fd);
    if (!done) return false;
  }
  if (!S_ISCHR(e.mode) && fchmodat(dir, name, e.mode & 07777, 0)) return failure->set("chmod");
  timespec times[2] = {{e.mtime_s, e.mtime_ns}, {e.mtime_s, e.mtime_ns}};
  if (e.mtime_s || e.mtime_ns) utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
  return true;
}

bool unpack_entry(int fd, const wire::PackEntry& e, const PackTarget& target, Failure* failure) {
  char path[PATH_MAX];
  errno = EINVAL;
  if (e.magic != wire::kPackMagic || e.path_bytes == 0 || e.path_bytes >= sizeof path)
    return failure->set("unpack: damaged entry");
  if (!read_exact(fd, path, e.path_bytes)) return failure->set("unpack: read");
  path[e.path_bytes] = 0;
  if (!strcmp(path, ".")) return set_attributes(target.dir_fd, ".", e, target, failure);
  if (S_ISCHR(e.mode) && !skeleton_has(target, path))
    return true;  // overlay would list it: it hides whiteouts only where it merges directories
  const char* name = nullptr;
  int dir = open_parent(target.dir_fd, path, &name);
  if (dir < 0) return failure->set("unpack %s: open its directory", path);
  Failure step;
  bool done = make_node(fd, dir, name, e, &step) && set_attributes(dir, name, e, target, &step);
  close(dir);
  if (done) return true;
  failure->error = step.error;
  snprintf(failure->text, sizeof failure->text, "unpack %.200s: %.200s", path, step.text);
  return false;
}

bool pack_directory(int fd, int dir_fd, char* path, size_t length, const PackTarget& target,
                    Failure* failure);

bool pack_content(int fd, int dir, const char* name, wire::PackEntry e, const char* path,
                  Failure* failure) {
  char link[PATH_MAX];
  int in = -1;
  if (S_ISREG(e.mode)) {
    in = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (in < 0) return failure->set("pack %s: open", path);
  } else if (S_ISLNK(e.mode)) {
    ssize_t n = readlinkat(dir, name, link, sizeof link);
    if (n < 0) return failure->set("pack %s: readlink", path);
    e.size = uint64_t(n);
  } else {
    e.size = 0;
  }
  bool done = (write_exact(fd, &e, sizeof e) && write_exact(fd, path, e.path_bytes)) ||
              failure->set("pack %s: write", path);
  if (done && in >= 0) done = copy_bytes(in, fd, e.size, failure);
  if (done && S_ISLNK(e.mode)) done = write_exact(fd, link, e.size) || failure->set("pack: write");
  if (in >= 0) close(in);
  return done;
}

bool pack_node(int fd, int dir, const char* name, char* path, size_t length,
               const PackTarget& target, Failure* failure) {
  struct stat st;
  if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) return failure->set("pack %s: stat", path);
  wire::PackEntry e{};
  e.magic = wire::kPackMagic;
  e.mode = st.st_mode;
  e.uid = target.keep_owner ? st.st_uid - target.uid_base : wire::kSandboxAgent;
  e.gid = target.keep_owner ? st.st_gid - target.uid_base : wire::kSandboxAgent;
  e.mtime_s = st.st_mtim.tv_sec;
  e.mtime_ns = uint32_t(st.st_mtim.tv_nsec);
  e.size = uint64_t(st.st_size);
  e.path_bytes = uint32_t(length);
  if (S_ISSOCK(st.st_mode)) return true;  // nothing is bound to it any more
  if (S_ISCHR(st.st_mode) && st.st_rdev != makedev(0, 0)) return true;
  if (skeleton_has(target, path)) e.flags |= wire::kPackCovers;
  int sub = -1;
  if (S_ISDIR(st.st_mode)) {
    sub = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (sub < 0) return failure->set("pack %s: open", path);
    char mark = 0;
    if (target.opaque_xattr && fgetxattr(sub, target.opaque_xattr, &mark, 1) == 1 && mark == 'y')
      e.flags |= wire::kPackOpaque;
  }
  bool done = pack_content(fd, dir, name, e, path, failure);
  if (sub >= 0 && done) done = pack_directory(fd, sub, path, length, target, failure);
  if (sub >= 0) close(sub);
  return done;
}

bool pack_directory(int fd, int dir_fd, char* path, size_t length, const PackTarget& target,
                    Failure* failure) {
  dirent** names = nullptr;
  int count = scandirat(dir_fd, ".", &names, nullptr, [](const dirent** a, const dirent** b) {
    return strcmp((*a)->d_name, (*b)->d_name);
  });
  if (count < 0) return failure->set("pack %s: list", path);
  bool done = true;
  for (int i = 0; i < count; ++i) {
    const char* name = names[i]->d_name;
    size_t name_length = strlen(name);
    bool skip = !strcmp(name, ".") || !strcmp(name, "..");
    if (done && !skip) {
      size_t start = length ? length + 1 : 0;
      errno = ENAMETOOLONG;
      if (start + name_length >= PATH_MAX) {
        done = failure->set("pack %s", path);
      } else {
        if (length) path[length] = '/';
        memcpy(path + start, name, name_length + 1);
        done = pack_node(fd, dir_fd, name, path, start + name_length, target, failure);
        path[length] = 0;
      }
    }
    free(names[i]);
  }
  free(names);
  return done;
}

}  // namespace

bool unpack(int fd, const PackTarget& target, Failure* failure) {
  for (;;) {
    wire::PackEntry entry;
    ssize_t n;
    do {
      n = read(fd, &entry, sizeof entry);
    } while (n < 0 && errno == EINTR);
    if (n == 0) return true;
    if (n < 0) return failure->set("unpack: read");
    if (size_t(n) < sizeof entry &&
        !read_exact(fd, reinterpret_cast<char*>(&entry) + n, sizeof entry - size_t(n)))
      return failure->set("unpack: read");
    if (!unpack_entry(fd, entry, target, failure)) return false;
  }
}

bool pack(int fd, const PackTarget& target, Failure* failure) {
  char path[PATH_MAX] = {0};
  return pack_directory(fd, target.dir_fd, path, 0, target, failure);
}

}  // namespace espalier::envs::init
