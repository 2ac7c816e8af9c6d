#include "envs/sandbox/init/session_terminal.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// The C library's ioctl.h and termios.h clash with the kernel's termios2.
extern "C" int ioctl(int fd, unsigned long request, ...);

namespace espalier::envs::init {
namespace {

constexpr unsigned long kGetTermios = 0x802c542a, kSetTermios = 0x402c542b;  // TCGETS2, TCSETS2
constexpr unsigned long kInsert = 0x5412;                                    // TIOCSTI
constexpr unsigned long kGetSize = 0x5413, kSetSize = 0x5414;  // TIOCGWINSZ, TIOCSWINSZ
constexpr size_t kMaxTyped = 4096;                             // the line discipline keeps no more

struct Size {
  unsigned short rows, columns, x, y;
};

/// The session's own terminal, opened by us as well; -1: it has none.
int open_terminal(const Frozen& frozen) {
  for (size_t i = 0; i < frozen.inventory.fd_count; ++i) {
    if (frozen.inventory.fds[i].how != Carry::terminal) continue;
    int pidfd = int(syscall(SYS_pidfd_open, frozen.session.outer_pid, 0));
    int fd = pidfd < 0 ? -1 : int(syscall(SYS_pidfd_getfd, pidfd, frozen.inventory.fds[i].fd, 0));
    if (pidfd >= 0) close(pidfd);
    return fd;
  }
  return -1;
}

/// Types it as if by hand, unseen.
bool insert(int fd, const char* bytes, size_t count) {
  termios2 settings;
  if (ioctl(fd, kGetTermios, &settings)) return false;
  termios2 silent = settings;
  silent.c_lflag &= ~unsigned(ECHO | ECHONL | ISIG);
  silent.c_iflag &= ~unsigned(ICRNL | INLCR | IGNCR | IXON);
  bool done = ioctl(fd, kSetTermios, &silent) == 0;
  for (size_t i = 0; i < count && done; ++i) done = ioctl(fd, kInsert, bytes + i) == 0;
  return ioctl(fd, kSetTermios, &settings) == 0 && done;
}

}  // namespace

bool take_typed(Frozen* frozen) {
  int fd = open_terminal(*frozen);
  if (fd < 0) return true;
  termios2 settings;
  bool done = ioctl(fd, kGetTermios, &settings) == 0;
  termios2 raw = settings;
  // Unfinished lines can be read in this mode alone.
  raw.c_lflag &= ~unsigned(ICANON);
  raw.c_cc[VMIN] = raw.c_cc[VTIME] = 0;
  done = done && ioctl(fd, kSetTermios, &raw) == 0;
  frozen->typed = done ? static_cast<char*>(malloc(kMaxTyped)) : nullptr;
  while (frozen->typed && frozen->typed_bytes < kMaxTyped) {
    ssize_t n = read(fd, frozen->typed + frozen->typed_bytes, kMaxTyped - frozen->typed_bytes);
    if (n <= 0) break;
    frozen->typed_bytes += size_t(n);
  }
  done = ioctl(fd, kSetTermios, &settings) == 0 && frozen->typed;
  close(fd);
  return done;
}

void return_typed(const Frozen& frozen) {
  int fd = open_terminal(frozen);
  if (fd < 0) return;
  insert(fd, frozen.typed, frozen.typed_bytes);
  close(fd);
}

bool prepare_terminal(const Frozen& frozen, int slave) {
  int old = open_terminal(frozen);
  if (old < 0) return false;
  termios2 settings;
  Size size;
  bool done = ioctl(old, kGetTermios, &settings) == 0 &&
              ioctl(slave, kSetTermios, &settings) == 0 && ioctl(old, kGetSize, &size) == 0 &&
              ioctl(slave, kSetSize, &size) == 0 &&
              (!frozen.typed_bytes || insert(slave, frozen.typed, frozen.typed_bytes));
  int saved = errno;
  close(old);
  errno = saved;
  return done;
}

}  // namespace espalier::envs::init
