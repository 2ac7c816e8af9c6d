#include "envs/sandbox/init/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "envs/sandbox/init/xattrs.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr uint64_t kSpliceBytes = 64 * 1024;

/// The stream, gathered into large writes.
class Sink {
 public:
  explicit Sink(int fd) : fd_(fd) {}
  bool put(const void* data, size_t size) {
    const char* from = static_cast<const char*>(data);
    while (size) {
      if (used_ == kBufferBytes && !flush()) return false;
      size_t n = size < kBufferBytes - used_ ? size : kBufferBytes - used_;
      memcpy(buffer_ + used_, from, n);
      used_ += n;
      from += n;
      size -= n;
    }
    return true;
  }
  /// Hands on `size` bytes of a file: its pages themselves where that is possible.
  bool copy(int from, uint64_t size) {
    if (size >= kSpliceBytes && splices_ && !flush()) return false;
    while (size >= kSpliceBytes && splices_) {
      ssize_t n = splice(from, nullptr, fd_, nullptr, size, SPLICE_F_MORE);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno != EINVAL) return false;
      if (n == 0) errno = ENODATA;
      if (n == 0) return false;
      splices_ = n > 0;
      if (n > 0) size -= uint64_t(n);
    }
    while (size) {
      if (used_ == kBufferBytes && !flush()) return false;
      size_t room = kBufferBytes - used_;
      ssize_t n = read(from, buffer_ + used_, size < room ? size_t(size) : room);
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) errno = ENODATA;
      if (n <= 0) return false;
      used_ += size_t(n);
      size -= uint64_t(n);
    }
    return true;
  }
  bool flush() {
    bool done = write_exact(fd_, buffer_, used_);
    used_ = 0;
    return done;
  }

 private:
  static inline char buffer_[kBufferBytes];
  int fd_;
  size_t used_ = 0;
  bool splices_ = true;  // until it is found that descriptor or file system cannot
};

/// Paths by inode, of files with several names.
class Links {
 public:
  ~Links() {
    for (size_t i = 0; i < count_; ++i) free(known_[i].path);
    free(known_);
  }
  /// The earlier path of this file; else null, and the path is remembered.
  const char* earlier(const struct stat& st, const char* path) {
    if (st.st_nlink < 2) return nullptr;
    if (2 * (count_ + 1) > capacity_ && !grow()) return nullptr;
    Known* slot = find(st.st_ino);
    if (slot->path) return slot->path;
    *slot = {st.st_ino, strdup(path)};
    ++count_;
    return nullptr;
  }

 private:
  struct Known {
    ino_t inode;
    char* path;
  };
  Known* find(ino_t inode) {
    size_t at = (inode * 0x9e3779b97f4a7c15ull >> 20) & (capacity_ - 1);
    while (known_[at].path && known_[at].inode != inode) at = (at + 1) & (capacity_ - 1);
    return &known_[at];
  }
  bool grow() {
    Known* old = known_;
    size_t old_capacity = capacity_;
    size_t capacity = capacity_ ? 2 * capacity_ : 64;
    auto* table = static_cast<Known*>(calloc(capacity, sizeof(Known)));
    if (!table) return false;
    known_ = table;
    capacity_ = capacity;
    for (size_t i = 0; i < old_capacity; ++i)
      if (old[i].path) *find(old[i].inode) = old[i];
    free(old);
    return true;
  }

  Known* known_ = nullptr;
  size_t count_ = 0, capacity_ = 0;
};

/// One tree on its way into the stream.
class Packing {
 public:
  Packing(int fd, const PackTarget& target, Failure* failure)
      : sink_(fd), target_(target), failure_(failure) {}

  bool run() {
    wire::PackEntry end{};
    end.magic = wire::kPackEnd;
    return directory(target_.dir_fd, 0) &&
           ((sink_.put(&end, sizeof end) && sink_.flush()) || failure_->set("pack: write"));
  }

 private:
  bool fail(const char* step) { return failure_->set("pack %.300s: %s", path_, step); }

  bool directory(int dir, size_t length);
  bool node(int dir, const char* name, size_t length);
  bool describe(int dir, const char* name, int fd, const struct stat& st, wire::PackEntry* e);
  bool head(const wire::PackEntry& e) {
    return (sink_.put(&e, sizeof e) && sink_.put(path_, e.path_bytes) &&
            sink_.put(xattrs_, e.xattr_bytes)) ||
           fail("write");
  }
  bool file(int fd, wire::PackEntry e, const struct stat& st);
  bool symlink(int dir, const char* name, wire::PackEntry e);

  static inline char xattrs_[wire::kPackMaxXattrBytes];
  Sink sink_;
  const PackTarget& target_;
  Failure* failure_;
  Links links_;
  char path_[PATH_MAX] = {0};
};

bool is_opaque(int dir, const char* xattr) {
  char mark = 0;
  return xattr && fgetxattr(dir, xattr, &mark, 1) == 1 && mark == 'y';
}

/// Everything but the content. fd: of a file or directory, else -1.
bool Packing::describe(int dir, const char* name, int fd, const struct stat& st,
                       wire::PackEntry* e) {
  e->magic = wire::kPackMagic;
  e->mode = st.st_mode;
  e->uid = target_.keep_owner ? st.st_uid - target_.uid_base : wire::kSandboxAgent;
  e->gid = target_.keep_owner ? st.st_gid - target_.uid_base : wire::kSandboxAgent;
  e->mtime_s = st.st_mtim.tv_sec;
  e->mtime_ns = uint32_t(st.st_mtim.tv_nsec);
  if (fd >= 0) {
    ssize_t n = get_xattrs(fd, target_.id_shift(), xattrs_, sizeof xattrs_);
    if (n < 0) return fail("read its extended attributes");
    e->xattr_bytes = uint32_t(n);
  }
  struct stat below;
  if ((S_ISDIR(st.st_mode) || S_ISCHR(st.st_mode)) && target_.base_has(path_, &below)) {
    e->flags |= wire::kPackCovers;
    if (below.st_mode == st.st_mode && below.st_uid == st.st_uid && below.st_gid == st.st_gid &&
        !e->xattr_bytes)
      e->flags |= wire::kPackSame;
  }
  if (S_ISDIR(st.st_mode) && is_opaque(fd, target_.opaque_xattr)) e->flags |= wire::kPackOpaque;
  return true;
}

bool Packing::file(int fd, wire::PackEntry e, const struct stat& st) {
  if (const char* earlier = links_.earlier(st, path_)) {
    e.flags |= wire::kPackHardLink;
    e.xattr_bytes = 0;
    e.size = strlen(earlier);
    return head(e) && (sink_.put(earlier, e.size) || fail("write"));
  }
  e.size = uint64_t(st.st_size);
  bool sparse = uint64_t(st.st_blocks) * 512 < e.size;
  if (!sparse) return head(e) && (sink_.copy(fd, e.size) || fail("copy"));
  e.flags |= wire::kPackSparse;
  if (!head(e)) return false;
  for (off_t at = 0; at < st.st_size;) {
    off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0 || lseek(fd, data, SEEK_SET) < 0) return fail("find its holes");
    if (hole > st.st_size) hole = st.st_size;
    wire::PackSegment segment{uint64_t(data), uint64_t(hole - data)};
    if (hole <= data) break;
    if (!sink_.put(&segment, sizeof segment) || !sink_.copy(fd, segment.bytes)) return fail("copy");
    at = hole;
  }
  wire::PackSegment end{e.size, 0};
  return sink_.put(&end, sizeof end) || fail("write");
}

bool Packing::symlink(int dir, const char* name, wire::PackEntry e) {
  char link[PATH_MAX];
  ssize_t n = readlinkat(dir, name, link, sizeof link);
  if (n < 0) return fail("readlink");
  e.size = uint64_t(n);
  return head(e) && (sink_.put(link, e.size) || fail("write"));
}

bool Packing::node(int dir, const char* name, size_t length) {
  struct stat st;
  if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) return fail("stat");
  if (S_ISSOCK(st.st_mode) || S_ISBLK(st.st_mode)) return true;
  if (S_ISCHR(st.st_mode) && st.st_rdev != makedev(0, 0)) return true;
  int fd = -1;
  if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
    fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fail("open");
  }
  wire::PackEntry e{};
  e.path_bytes = uint32_t(length);
  bool done = describe(dir, name, fd, st, &e);
  if (!done) {
  } else if (S_ISREG(st.st_mode)) {
    done = file(fd, e, st);
  } else if (S_ISLNK(st.st_mode)) {
    done = symlink(dir, name, e);
  } else {
    done = head(e) && (!S_ISDIR(st.st_mode) || directory(fd, length));
  }
  if (fd >= 0) close(fd);
  return done;
}

bool Packing::directory(int dir, size_t length) {
  dirent** names = nullptr;
  int count = scandirat(dir, ".", &names, nullptr, [](const dirent** a, const dirent** b) {
    return strcmp((*a)->d_name, (*b)->d_name);
  });
  if (count < 0) return fail("list");
  bool done = true;
  for (int i = 0; i < count; ++i) {
    const char* name = names[i]->d_name;
    size_t name_length = strlen(name);
    if (done && strcmp(name, ".") && strcmp(name, "..")) {
      size_t start = length ? length + 1 : 0;
      errno = ENAMETOOLONG;
      if (start + name_length >= PATH_MAX) {
        done = fail("list");
      } else {
        if (length) path_[length] = '/';
        memcpy(path_ + start, name, name_length + 1);
        done = node(dir, name, start + name_length);
        path_[length] = 0;
      }
    }
    free(names[i]);
  }
  free(names);
  return done;
}

}  // namespace

bool PackTarget::base_has(const char* path, struct stat* found) const {
  for (size_t i = 0; i < base_count; ++i)
    if (fstatat(base_fds[i], path, found, AT_SYMLINK_NOFOLLOW) == 0)
      return !S_ISCHR(found->st_mode) || found->st_rdev != makedev(0, 0);
  return false;
}

bool pack(int fd, const PackTarget& target, Failure* failure) {
  return Packing(fd, target, failure).run();
}

}  // namespace espalier::envs::init
