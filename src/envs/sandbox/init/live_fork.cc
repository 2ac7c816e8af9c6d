#include "envs/sandbox/init/live_fork.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>

#include "envs/sandbox/init/layers.h"
#include "envs/sandbox/init/session_terminal.h"

namespace espalier::envs::init {
namespace {

uint64_t find_vdso(const Base& base, pid_t pid) {
  char path[32], line[512];
  snprintf(path, sizeof path, "%d/maps", pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  FILE* maps = fd < 0 ? nullptr : fdopen(fd, "r");
  if (!maps) return 0;
  uint64_t address = 0;
  while (!address && fgets(line, sizeof line, maps))
    if (strstr(line, "[vdso]")) address = strtoull(line, nullptr, 16);
  fclose(maps);
  return address;
}

}  // namespace

Script* new_script(uint64_t area) {
  alignas(Script) static char memory[sizeof(Script)];
  return new (memory) Script(area);
}

namespace {

/// Maps the area scripts lie in, into the session's memory.
bool make_area(Frozen* frozen) {
  pid_t pid = frozen->session.outer_pid;
  frozen->gadget = find_gadget(pid, frozen->session.vdso);
  errno = ENOEXEC;
  if (frozen->gadget)
    frozen->area = map_area(pid, frozen->state.registers, frozen->gadget, frozen->programs.area);
  return frozen->area != 0;
}

/// What the kernel keeps for it, and a way to hand its carriers descriptors.
bool ask_session(Frozen* frozen) {
  pid_t pid = frozen->session.outer_pid;
  Script* script = new_script(frozen->area);
  KernelQuestions questions(script);
  uint64_t sockets = script->data(nullptr, 8);
  size_t first = script->call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
  Inventory& inventory = frozen->inventory;
  for (size_t i = 0; i < inventory.fd_count; ++i)
    script->call(SYS_fcntl, uint64_t(inventory.fds[i].fd), F_GETFD);
  if (!script->run(pid, frozen->state.registers)) return false;
  questions.answers(*script, pid, &frozen->kernel);
  memcpy(frozen->its_sockets, script->read_back(sockets), sizeof frozen->its_sockets);
  // /proc says O_CLOEXEC of a descriptor also where the file was once opened with it.
  for (size_t i = 0; i < inventory.fd_count; ++i) {
    bool closed = script->result(first + 1 + i) & FD_CLOEXEC;
    inventory.fds[i].flags = (inventory.fds[i].flags & ~O_CLOEXEC) | (closed ? O_CLOEXEC : 0);
  }
  int pidfd = int(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd >= 0) {
    frozen->socket = int(syscall(SYS_pidfd_getfd, pidfd, frozen->its_sockets[0], 0));
    close(pidfd);
  }
  return frozen->socket >= 0;
}

/// A session with a terminal may have programs below it: they are rebuilt.
bool check_relatives(const Base& base, const Frozen& frozen, Lineage* programs, Refusal* why) {
  const SessionIdentity& session = frozen.session;
  return check_family(base, session, frozen.init, frozen.pipes.output ? nullptr : programs, why) &&
         check_session(base, session.outer_pid, why);
}

/// Everything that is looked at before anything changes. The session is stopped.
bool inspect(const Base& base, Frozen* frozen, Refusal* why) {
  SessionIdentity& session = frozen->session;
  InventoryRequest request;
  request.pid = session.outer_pid;
  request.pipes = frozen->pipes;
  Lineage programs;
  return identify(base, &session) && check_relatives(base, *frozen, &programs, why) &&
         check_memory(base, session, why) &&
         take_inventory(base, request, &frozen->inventory, why) &&
         (!programs.count || (hold_programs(base, *frozen, programs, &frozen->programs, why) &&
                              close_writers(&frozen->programs, why)));
}

struct Protection {
  int namespace_fd;
  unsigned long read_only;
  int error = 0;
};

int protect_root(void* argument) {
  Protection& protection = *static_cast<Protection*>(argument);
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | protection.read_only;
  if (setns(protection.namespace_fd, CLONE_NEWNS) || mount(nullptr, "/", nullptr, flags, nullptr))
    protection.error = errno;
  return 0;
}

/// A layer with deleted files that are still open cannot be made read-only; the mount by which its
/// sandbox sees it can, unless a file is open for writing.
bool seal_mount(const Base& base, pid_t pid, bool read_only) {
  alignas(16) static char stack[16 * 1024];
  char path[32];
  snprintf(path, sizeof path, "%d/ns/mnt", pid);
  Protection protection{openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC),
                        read_only ? 1ul * MS_RDONLY : 0ul};
  if (protection.namespace_fd < 0) return false;
  pid_t child =
      clone(protect_root, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &protection);
  int error = errno;
  if (child > 0) waitpid(child, nullptr, 0);
  close(protection.namespace_fd);
  errno = child > 0 ? protection.error : error;
  return errno == 0;
}

bool has_deleted_file(const Inventory& inventory) {
  for (size_t i = 0; i < inventory.fd_count; ++i)
    if (inventory.fds[i].how == Carry::reopen_deleted) return true;
  return false;
}

bool seal_upper(const Base& base, Frozen* frozen, bool* empty, Refusal* why) {
  int dir = open_layer(frozen->id);
  if (dir < 0) return why->set(false, "its files are gone");
  *empty = is_empty(dir);
  close(dir);
  if (*empty) return true;
  Failure failure;
  frozen->sealed = seal(base, frozen->id, &failure);
  frozen->mount_sealed = !frozen->sealed && has_deleted_file(frozen->inventory) &&
                         seal_mount(base, frozen->session.outer_pid, true);
  return frozen->sealed || frozen->mount_sealed ||
         why->set(true, "a file is open for writing (%.200s)", failure.text);
}

uint32_t refused(const Base& base, Frozen* frozen, const Refusal& why) {
  release_programs(&frozen->programs);
  if (pid_t pid = frozen->session.outer_pid) {
    sched_setaffinity(pid, sizeof frozen->cpus, reinterpret_cast<cpu_set_t*>(frozen->cpus));
    detach(pid);
  }
  return (why.passing ? wire::kBusy : wire::kNotCarried) |
         (frozen->session.is_bash ? wire::kIsBash : 0u);
}

}  // namespace

uint32_t freeze(const Base& base, const wire::FreezeRequest& request, int init_pidfd,
                Frozen* frozen, Refusal* why) {
  SessionIdentity& session = frozen->session;
  frozen->pipes = {request.output, request.command, request.status};
  frozen->init = pid_of(base, init_pidfd);
  pid_t pid =
      request.outer_pid ? request.outer_pid : find_session(base, frozen->init, request.shell_pid);
  session.outer_pid = pid;
  Lineage programs;
  if (!pid || !identify(base, &session) || !check_relatives(base, *frozen, &programs, why)) {
    session.outer_pid = 0;  // not held
    return refused(base, frozen, *why);
  }
  Failure failure;
  cpu_set_t cpus;
  sched_getaffinity(pid, sizeof cpus, &cpus);
  static_assert(sizeof cpus == sizeof frozen->cpus);
  memcpy(frozen->cpus, &cpus, sizeof cpus);
  bring_to(request.cpu, 0);
  bring_to(request.cpu, pid);
  if (!attach(pid, &failure)) {
    sched_setaffinity(pid, sizeof cpus, &cpus);
    why->set(false, "%.200s", failure.text);
    bool may_not = failure.error == EPERM || failure.error == EINVAL;
    return (may_not ? wire::kUnsupported : wire::kNotCarried) |
           (session.is_bash ? wire::kIsBash : 0u);
  }
  bool empty = false;
  session.vdso = find_vdso(base, pid);
  if (!inspect(base, frozen, why) || !seal_upper(base, frozen, &empty, why))
    return refused(base, frozen, *why);
  bool done = save_state(pid, &frozen->state) && block_signals(pid);
  if (!done || !make_area(frozen) || !ask_session(frozen) || !take_typed(frozen)) {
    why->set(false, "the session cannot be made to act for us: %.100s", strerror(errno));
    thaw(base, frozen, &failure);
    session.outer_pid = 0;
    return refused(base, frozen, *why);
  }
  return wire::kFrozen | (empty ? wire::kUpperEmpty : 0u) |
         (frozen->programs.count ? wire::kRebuilt : 0u);
}

bool thaw(const Base& base, Frozen* frozen, Failure* failure) {
  pid_t pid = frozen->session.outer_pid;
  errno = EBUSY;
  if (frozen->copies) return failure->set("thaw a session that was copied");
  if (frozen->socket >= 0) {
    Script* script = new_script(frozen->area);
    for (int fd : frozen->its_sockets) script->call(SYS_close, uint64_t(fd));
    script->run(pid, frozen->state.registers);
  }
  if (frozen->area) unmap_area(pid, frozen->state.registers, frozen->gadget, frozen->area);
  if (frozen->sealed) unseal(base, frozen->id, failure);
  if (frozen->mount_sealed) seal_mount(base, pid, false);
  release_programs(&frozen->programs);
  return_typed(*frozen);
  sched_setaffinity(pid, sizeof frozen->cpus, reinterpret_cast<cpu_set_t*>(frozen->cpus));
  bool done = restore_state(pid, frozen->state) && detach(pid);
  return done || failure->set("let a session go on");
}

}  // namespace espalier::envs::init
