#include "envs/sandbox/init/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace espalier::envs::init {

bool open_pty(const wire::TerminalShape& shape, uid_t owner, Pty* pty) {
  int unlocked = 0;
  unsigned number = 0;
  winsize size{};
  size.ws_col = shape.columns;
  size.ws_row = shape.rows;
  pty->master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (pty->master < 0) return false;
  if (ioctl(pty->master, TIOCSPTLCK, &unlocked) == 0 &&
      ioctl(pty->master, TIOCGPTN, &number) == 0 && ioctl(pty->master, TIOCSWINSZ, &size) == 0)
    pty->slave = ioctl(pty->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  snprintf(pty->name, sizeof pty->name, "/dev/pts/%u", number);
  bool done = pty->slave >= 0 && (owner == geteuid() || fchown(pty->slave, owner, gid_t(-1)) == 0);
  if (!done) {
    int saved = errno;
    close_pty(pty);
    errno = saved;
  }
  return done;
}

void close_pty(Pty* pty) {
  if (pty->master >= 0) close(pty->master);
  if (pty->slave >= 0) close(pty->slave);
  pty->master = pty->slave = -1;
}

bool enter_terminal(const Pty& pty) {
  for (int fd = 0; fd < 3; ++fd)
    if (dup2(pty.slave, fd) < 0) return false;
  return ioctl(0, TIOCSCTTY, 0) == 0;
}

bool waits_for_input(pid_t pid) {
  char path[64], text[256] = {0};
  snprintf(path, sizeof path, "/proc/%d/syscall", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  char* end = nullptr;
  long call = strtol(text, &end, 10);  // "running" gives no number
  if (end == text) return false;
  unsigned long first = strtoul(end, nullptr, 16);
  if (call == SYS_read) return first == 0;
#ifdef SYS_select
  if (call == SYS_select) return first == 1;
#endif
  return call == SYS_pselect6 && first == 1;
}

}  // namespace espalier::envs::init
