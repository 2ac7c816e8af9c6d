#include "envs/sandbox/init/graft_files.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace espalier::envs::init {
namespace {

constexpr int kKeptFlags = O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECTORY | O_PATH | O_NOATIME |
                           O_DIRECT | O_LARGEFILE | O_SYNC | O_DSYNC;

const CarriedFd* find_shared(pid_t program, const CarriedFd& fd, const Ancestor& ancestor) {
  for (size_t i = 0; i < ancestor.inventory->fd_count; ++i) {
    const CarriedFd& other = ancestor.inventory->fds[i];
    if (syscall(SYS_kcmp, ancestor.pid, program, KCMP_FILE, long{other.fd}, long{fd.fd}) == 0)
      return &other;
  }
  return nullptr;
}

int highest(const Inventory& inventory) {
  int fd = -1;
  for (size_t i = 0; i < inventory.fd_count; ++i)
    if (inventory.fds[i].fd > fd) fd = inventory.fds[i].fd;
  return fd;
}

/// At descriptor `to`, at the offset it had.
void open_again(Script* script, const CarriedFd& fd, int to, bool closed_on_exec) {
  auto number = uint64_t(to);
  script->call_flagged(kKeepResult, SYS_open, script->text(fd.path),
                       uint64_t((fd.flags & kKeptFlags) | O_NOCTTY | O_CLOEXEC), 0);
  script->call_flagged(kUseResult, SYS_dup3, 0, number, closed_on_exec ? O_CLOEXEC : 0);
  script->call_flagged(kUseResult, SYS_close, 0);
  if (fd.how == Carry::reopen && fd.offset && !(fd.flags & O_PATH))
    script->call(SYS_lseek, number, uint64_t(fd.offset), SEEK_SET);
}

size_t index_of(const Inventory& inventory, int fd) {
  size_t i = 0;
  while (i < inventory.fd_count && inventory.fds[i].fd != fd) ++i;
  return i;
}

}  // namespace

bool relate_files(pid_t program, const char* who, const Ancestor* ancestors, size_t count,
                  Inventory* inventory, Refusal* why) {
  const Ancestor& parent = ancestors[count - 1];
  for (size_t i = 0; i < inventory->fd_count; ++i) {
    CarriedFd& fd = inventory->fds[i];
    if (const CarriedFd* shared = find_shared(program, fd, parent)) {
      if (shared->is_writable() && shared->how == Carry::reopen)
        return why->set(false, "%s shares a file that is open for writing (descriptor %d)", who,
                        fd.fd);
      fd.how = Carry::of_parent;
      fd.other = shared->fd;
      continue;
    }
    for (size_t k = 0; k + 1 < count; ++k)
      if (find_shared(program, fd, ancestors[k]))
        return why->set(false, "%s has a descriptor that its parent has not (%d)", who, fd.fd);
    for (size_t k = 0; k < i && fd.how != Carry::same_as; ++k) {
      const CarriedFd& other = inventory->fds[k];
      if (other.how == Carry::same_as || other.how == Carry::of_parent ||
          syscall(SYS_kcmp, program, program, KCMP_FILE, long{other.fd}, long{fd.fd}) != 0)
        continue;
      fd.how = Carry::same_as;
      fd.other = other.fd;
    }
  }
  return true;
}

int spare_descriptor(const Inventory& parent, const Inventory& program) {
  int a = highest(parent), b = highest(program);
  return 2 + (a > b ? a : b);
}

void replace_files(Script* script, const Inventory& parent, const Inventory& program) {
  // Aside with all, then into place: numbers may change hands.
  auto aside = uint64_t(spare_descriptor(parent, program));
  uint64_t opened = aside + parent.fd_count;
  for (size_t i = 0; i < parent.fd_count; ++i)
    script->call(SYS_dup3, uint64_t(parent.fds[i].fd), aside + i, O_CLOEXEC);
  for (size_t i = 0; i < program.fd_count; ++i)
    if (program.fds[i].how != Carry::of_parent && program.fds[i].how != Carry::same_as)
      open_again(script, program.fds[i], int(opened + i), true);
  script->call(SYS_close_range, 0, aside - 1, 0);
  for (size_t i = 0; i < program.fd_count; ++i) {
    const CarriedFd& fd = program.fds[i];
    uint64_t from = opened + i;
    if (fd.how == Carry::of_parent) from = aside + index_of(parent, fd.other);
    if (fd.how == Carry::same_as) from = uint64_t(fd.other);
    script->call(SYS_dup3, from, uint64_t(fd.fd), uint64_t(fd.flags & O_CLOEXEC));
    if (fd.how == Carry::of_parent && fd.flags & O_NONBLOCK)
      script->call(SYS_fcntl, uint64_t(fd.fd), F_SETFL, uint64_t(fd.flags & kKeptFlags));
  }
  script->call(SYS_close_range, aside, ~0u, 0);
}

void close_writers(Script* script, const Inventory& inventory) {
  for (size_t i = 0; i < inventory.fd_count; ++i) {
    const CarriedFd& fd = inventory.fds[i];
    const CarriedFd& first =
        fd.how == Carry::same_as ? inventory.fds[index_of(inventory, fd.other)] : fd;
    if (first.how == Carry::reopen && first.is_writable()) script->call(SYS_close, uint64_t(fd.fd));
  }
}

void reopen_writers(Script* script, const Inventory& inventory) {
  int aside = spare_descriptor(inventory, inventory);
  for (size_t i = 0; i < inventory.fd_count; ++i) {
    const CarriedFd& first = inventory.fds[i];
    if (first.how != Carry::reopen || !first.is_writable()) continue;
    open_again(script, first, aside, true);
    for (size_t k = i; k < inventory.fd_count; ++k) {
      const CarriedFd& fd = inventory.fds[k];
      if (k == i || (fd.how == Carry::same_as && fd.other == first.fd))
        script->call(SYS_dup3, uint64_t(aside), uint64_t(fd.fd), uint64_t(fd.flags & O_CLOEXEC));
    }
    script->call(SYS_close, uint64_t(aside));
  }
}

}  // namespace espalier::envs::init
