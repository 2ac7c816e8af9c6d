#include "envs/sandbox/init/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "envs/sandbox/wire.h"

namespace espalier::envs::init {

int sys_fsopen(const char* type) { return int(syscall(SYS_fsopen, type, kFsopenCloexec)); }
int sys_fsconfig(int fd, unsigned command, const char* key, const char* value) {
  return int(syscall(SYS_fsconfig, fd, command, key, value, 0));
}
int sys_fsmount(int fd, unsigned attributes) {
  return int(syscall(SYS_fsmount, fd, kFsmountCloexec, attributes));
}
int sys_move_mount(int from_fd, const char* to) {
  return int(syscall(SYS_move_mount, from_fd, "", AT_FDCWD, to, kMoveMountFromEmptyPath));
}
int sys_open_tree(const char* path) {
  return int(syscall(SYS_open_tree, AT_FDCWD, path, kOpenTreeClone | O_CLOEXEC));
}
int sys_close_range(unsigned first, unsigned last) {
  return int(syscall(SYS_close_range, first, last, 0));
}

pid_t sys_clone(uint64_t flags, int* pidfd) {
  clone_args args{};
  args.flags = flags | (pidfd ? CLONE_PIDFD : 0);
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  args.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;  // the kernel takes its parent's
  return pid_t(syscall(SYS_clone3, &args, sizeof args));
}

int sys_capset(uint64_t effective_permitted, uint64_t inheritable) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int i = 0; i < 2; ++i) {
    data[i].effective = data[i].permitted = uint32_t(effective_permitted >> (32 * i));
    data[i].inheritable = uint32_t(inheritable >> (32 * i));
  }
  return int(syscall(SYS_capset, &header, data));
}

bool Failure::set(const char* format, ...) {
  error = errno ? errno : EINVAL;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  size_t used = strlen(text);
  snprintf(text + used, sizeof text - used, ": %s", strerror(error));
  return false;
}

bool send_packet(int socket, const void* data, size_t size, const int* fds, size_t fd_count) {
  iovec part{const_cast<void*>(data), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd_count) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == ssize_t(size);
}

ssize_t receive_packet(int socket, void* data, size_t capacity, int* fds, size_t* fd_count) {
  iovec part{data, capacity};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  *fd_count = 0;
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received <= 0) return received;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    *fd_count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(h), *fd_count * sizeof(int));
  }
  return received;
}

bool read_exact(int fd, void* data, size_t size) {
  char* at = static_cast<char*>(data);
  while (size) {
    ssize_t n = read(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = ENODATA;
    if (n <= 0) return false;
    at += n;
    size -= size_t(n);
  }
  return true;
}

bool write_exact(int fd, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size) {
    ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= size_t(n);
  }
  return true;
}

bool write_text(int dir_fd, const char* path, const char* text) {
  int fd = openat(dir_fd, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool done = write_exact(fd, text, strlen(text));
  int saved = errno;
  close(fd);
  errno = saved;
  return done;
}

bool remove_tree(int dir_fd, const char* name) {
  if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR && errno != EPERM) return false;
  int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT;
  DIR* dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return false;
  }
  bool done = true;
  while (dirent* entry = readdir(dir)) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    done = remove_tree(fd, entry->d_name) && done;
  }
  closedir(dir);
  return unlinkat(dir_fd, name, AT_REMOVEDIR) == 0 && done;
}

bool make_directories(int dir_fd, const char* path, mode_t mode) {
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof part) {
    errno = ENAMETOOLONG;
    return false;
  }
  memcpy(part, path, length + 1);
  for (size_t i = 1; i <= length; ++i) {
    if (part[i] != '/' && part[i] != 0) continue;
    char saved = part[i];
    part[i] = 0;
    if (mkdirat(dir_fd, part, mode) && errno != EEXIST) return false;
    part[i] = saved;
  }
  return true;
}

}  // namespace espalier::envs::init
