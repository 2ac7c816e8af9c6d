// One copy of a frozen session, as a list of lists of calls: the carrier's, then the copy's.
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "envs/sandbox/init/capabilities.h"
#include "envs/sandbox/init/session_terminal.h"

namespace espalier::envs::init {
namespace {

constexpr int kLinkTimeoutMs = 5000;
constexpr size_t kMaxSent = 5 + Inventory::kMaxFds;

/// What is made for one copy, and undone with it.
struct Making {
  const Base& base;
  Frozen* frozen;
  const CopyPlan& plan;
  Failure* failure;
  pid_t carrier = -1;
  pid_t copy = -1;
  Rebuilt programs = {};          // below the copy
  int slave = -1;                 // of the copy's terminal, where it has one
  int sent[kMaxSent] = {-1};      // our descriptors: the new init's pidfd, the pipes
  int received[kMaxSent] = {-1};  // the same in the carrier
  size_t sent_count = 0;
  bool open = false, closed = false;  // the new init
  size_t first_own = 0;               // from here on sent are ours to close

  const user_regs_struct& registers() const { return frozen->state.registers; }
  bool failed(const char* what, const Script* script = nullptr) {
    if (script && script->failed_call())
      return failure->set("copy a session: %s (call %lu)", what, script->failed_call());
    return failure->set("copy a session: %s", what);
  }
};

bool has_init(const Making& making) { return making.sent[0] >= 0; }
bool has_open_init(const Making& making) { return has_init(making) && making.open; }
bool has_closed_init(const Making& making) { return making.closed; }

/// The new init sends its pidfd, then a byte once a session may enter and another when what brought
/// it up is behind it.
bool await_link(Making* making, bool (*enough)(const Making&)) {
  while (!enough(*making)) {
    pollfd wait{making->plan.link, POLLIN, 0};
    char byte;
    int fds[wire::kMaxFds];
    size_t count = 0;
    errno = ETIMEDOUT;
    if (poll(&wait, 1, kLinkTimeoutMs) <= 0) return false;
    errno = EPIPE;
    if (receive_packet(making->plan.link, &byte, 1, fds, &count) != 1) return false;
    if (byte == 0 && count == 1) making->sent[0] = fds[0];
    if (byte == 1) making->open = true;
    if (byte == 1 && count == 1) making->slave = fds[0];
    if (byte == 2) making->closed = true;
  }
  return true;
}

/// A pipe with what is still to be read from the session's, which stays as it is.
int duplicate_pipe(const Frozen& frozen, const CarriedFd& fd) {
  char path[64];
  snprintf(path, sizeof path, "%d/fd/%d", frozen.session.outer_pid, fd.fd);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | (fd.flags & O_NONBLOCK))) return -1;
  int pidfd = int(syscall(SYS_pidfd_open, frozen.session.outer_pid, 0));
  int old = pidfd < 0 ? -1 : int(syscall(SYS_pidfd_getfd, pidfd, fd.fd, 0));
  if (pidfd >= 0) close(pidfd);
  int waiting = 0;
  bool done = old >= 0 && ioctl(old, FIONREAD, &waiting) == 0;
  if (done && waiting > 0) {
    fcntl(ends[1], F_SETPIPE_SZ, fcntl(old, F_GETPIPE_SZ));
    done = tee(old, ends[1], size_t(waiting), SPLICE_F_NONBLOCK) == waiting;
  }
  if (old >= 0) close(old);
  close(ends[1]);
  if (done) return ends[0];
  close(ends[0]);
  return -1;
}

bool gather(Making* making) {
  const CopyPlan& plan = making->plan;
  making->sent_count = 1;
  if (plan.output >= 0)
    for (int fd : {plan.output, plan.command, plan.status}) making->sent[making->sent_count++] = fd;
  making->first_own = making->sent_count;
  const Inventory& inventory = making->frozen->inventory;
  for (size_t i = 0; i < inventory.fd_count; ++i) {
    if (inventory.fds[i].how != Carry::duplicate_pipe) continue;
    int pipe = duplicate_pipe(*making->frozen, inventory.fds[i]);
    if (pipe < 0) return making->failed("duplicate a pipe");
    making->sent[making->sent_count++] = pipe;
  }
  return true;
}

bool send_all(Making* making) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxSent)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * making->sent_count);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * making->sent_count);
  memcpy(CMSG_DATA(header), making->sent, sizeof(int) * making->sent_count);
  return sendmsg(making->frozen->socket, &message, MSG_NOSIGNAL) == 1 ||
         making->failed("send descriptors");
}

/// Calls that open again, at the same offset, what descriptor `fd` is.
void reopen(Script* script, const CarriedFd& fd, uint64_t path) {
  constexpr int kKept = O_NONBLOCK | O_DIRECTORY | O_PATH | O_NOATIME | O_DIRECT | O_LARGEFILE;
  auto flags = uint64_t(O_RDONLY | O_CLOEXEC | O_NOCTTY | (fd.flags & kKept));
  auto number = uint64_t(fd.fd);
  script->call_flagged(kKeepResult, SYS_open, path, flags, 0);
  script->call_flagged(kUseResult, SYS_dup3, 0, number, uint64_t(fd.flags & O_CLOEXEC));
  script->call_flagged(kUseResult, SYS_close, 0);
  if (fd.offset && !(fd.flags & O_PATH))
    script->call(SYS_lseek, number, uint64_t(fd.offset), SEEK_SET);
}

/// Files without a name can be had by their magic links alone, while the carrier still sees itself
/// in /proc.
bool receive_in_carrier(Making* making) {
  const Frozen& frozen = *making->frozen;
  Script* script = new_script(frozen.area);
  size_t room = CMSG_SPACE(sizeof(int) * making->sent_count);
  uint64_t control = script->data(nullptr, room), byte = script->data(nullptr, 1);
  iovec part{reinterpret_cast<void*>(byte), 1};
  msghdr message{};
  message.msg_iov = reinterpret_cast<iovec*>(script->data(&part, sizeof part));
  message.msg_iovlen = 1;
  message.msg_control = reinterpret_cast<void*>(control);
  message.msg_controllen = room;
  script->call(SYS_recvmsg, uint64_t(frozen.its_sockets[1]), script->data(&message, sizeof message),
               MSG_CMSG_CLOEXEC);
  for (size_t i = 0; i < frozen.inventory.fd_count; ++i) {
    const CarriedFd& fd = frozen.inventory.fds[i];
    if (fd.how != Carry::reopen_deleted) continue;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd.fd);
    reopen(script, fd, script->text(path));
  }
  if (!script->run(making->carrier, making->registers()))
    return making->failed("receive descriptors", script);
  const auto* header = static_cast<const cmsghdr*>(script->read_back(control));
  errno = EMFILE;
  if (header->cmsg_len != CMSG_LEN(sizeof(int) * making->sent_count))
    return making->failed("receive descriptors");
  memcpy(making->received, CMSG_DATA(header), sizeof(int) * making->sent_count);
  return true;
}

void add_files(Script* script, const Making& making) {
  const Frozen& frozen = *making.frozen;
  size_t next_pipe = making.first_own;
  for (size_t i = 0; i < frozen.inventory.fd_count; ++i) {
    const CarriedFd& fd = frozen.inventory.fds[i];
    int from = -1;
    switch (fd.how) {
      case Carry::inherit:
      case Carry::reopen_deleted:
      case Carry::of_parent:
        continue;
      case Carry::reopen:
        reopen(script, fd, script->text(fd.path));
        continue;
      case Carry::output:
        from = making.received[1];
        break;
      case Carry::command:
        from = making.received[2];
        break;
      case Carry::status:
        from = making.received[3];
        break;
      case Carry::terminal:
        from = making.received[making.sent_count - 1];
        break;
      case Carry::duplicate_pipe:
        from = making.received[next_pipe++];
        break;
      case Carry::same_as:
        from = fd.other;
        break;
    }
    script->call(SYS_dup3, uint64_t(from), uint64_t(fd.fd), uint64_t(fd.flags & O_CLOEXEC));
  }
}

/// Enters the sandbox, opens the files in it and clones the copy.
bool clone_in_carrier(Making* making) {
  const Frozen& frozen = *making->frozen;
  Script* script = new_script(frozen.area);
  bool root = frozen.session.ids[1] != making->base.outer_uid(wire::kSandboxAgent);
  constexpr uint64_t kAgent = wire::kSandboxAgent, kRoot = wire::kSandboxRoot;
  // The user namespace lets its owner in, the agent.
  if (root) script->call(SYS_setresuid, kAgent, kAgent, kAgent);
  constexpr uint64_t kSpaces =
      CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWNET;
  script->call(SYS_setns, uint64_t(making->received[0]), kSpaces);
  if (root) script->call(SYS_setresuid, kRoot, kRoot, kRoot);
  script->call(SYS_prctl, PR_SET_DUMPABLE, uint64_t(frozen.kernel.dumpable));
  for (int capability = 0; capability <= making->base.last_capability; ++capability)
    if (!(kBoundingSet & capability_bit(capability)))
      script->call(SYS_prctl, PR_CAPBSET_DROP, uint64_t(capability));
  add_files(script, *making);
  for (size_t i = 0; i < making->sent_count; ++i)
    script->call(SYS_close, uint64_t(making->received[i]));
  for (int fd : frozen.its_sockets) script->call(SYS_close, uint64_t(fd));
  script->call(SYS_chdir, script->text(frozen.inventory.directory));
  clone_args args{};
  args.flags = CLONE_PARENT;
  pid_t pid = frozen.session.inner_pid;
  args.set_tid = script->data(&pid, sizeof pid);
  args.set_tid_size = 1;
  script->call(SYS_clone3, script->data(&args, sizeof args), sizeof args);
  making->copy = script->run_clone(making->carrier, making->registers());
  return making->copy > 0 || making->failed("enter the sandbox", script);
}

/// What a clone lacks of its original.
void list_missing(Script* script, const Making& making) {
  const Frozen& frozen = *making.frozen;
  script->call(SYS_setsid);
  if (making.slave >= 0)
    for (size_t i = 0; i < frozen.inventory.fd_count; ++i) {
      if (frozen.inventory.fds[i].how != Carry::terminal) continue;
      script->call(SYS_ioctl, uint64_t(frozen.inventory.fds[i].fd), TIOCSCTTY, 0);
      break;
    }
  restore_kernel_state(script, frozen.kernel);
}

bool run_in_copy(Making* making, Script* script) {
  return script->run(making->copy, making->registers()) ||
         making->failed("complete the copy", script);
}

bool join_groups(Making* making) {
  char text[32];
  int length = snprintf(text, sizeof text, "%d", making->copy);
  for (size_t i = 0; i < making->plan.group_count; ++i)
    if (write(making->plan.groups[i], text, size_t(length)) != length)
      return making->failed("join its control groups");
  return true;
}

/// What it lacks, the programs below it, and the end of the privileges that brought it here.
bool complete_copy(Making* making) {
  const Frozen& frozen = *making->frozen;
  Script* script = new_script(frozen.area);
  list_missing(script, *making);
  if (frozen.programs.count) {
    if (!run_in_copy(making, script) || !join_groups(making) ||
        !rebuild_programs(making->base, frozen, making->copy, &making->programs, making->failure))
      return false;
    script = new_script(frozen.area);
  }
  drop_capabilities(script, frozen.session);
  return run_in_copy(making, script);
}

void kill_held(pid_t pid) {
  if (pid <= 0) return;
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, __WALL);
}

/// The pid that the init of the line's first sandbox, the parent of all its copies, knows it by.
pid_t pid_at_first(const Base& base, pid_t pid, uint32_t depth) {
  char path[32], text[2048];
  snprintf(path, sizeof path, "%d/status", pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[n < 0 ? 0 : n] = 0;
  const char* at = strstr(text, "NSpid:");
  if (!at) return 0;
  pid_t pids[40];
  size_t count = 0;
  at += 6;
  for (char* end; count < 40; at = end) {
    long value = strtol(at, &end, 10);
    if (end == at || memchr(at, '\n', size_t(end - at))) break;
    pids[count++] = pid_t(value);
  }
  return count > depth ? pids[count - 1 - depth] : 0;
}

bool make_carrier(Making* making) {
  Script* script = new_script(making->frozen->area);
  script->call(SYS_clone, CLONE_VM | CLONE_PARENT | SIGCHLD);
  making->carrier = script->run_clone(making->frozen->session.outer_pid, making->registers());
  return making->carrier > 0 || making->failed("clone a carrier", script);
}

bool make(Making* making) {
  const CopyPlan& plan = making->plan;
  if (!gather(making) || !make_carrier(making)) return false;
  bool terminal = plan.output < 0;
  if (!await_link(making, terminal ? has_open_init : has_init))
    return making->failed("await the new init");
  if (terminal && (making->slave < 0 || !prepare_terminal(*making->frozen, making->slave)))
    return making->failed("prepare the terminal");
  if (terminal) making->sent[making->sent_count++] = making->slave;
  if (!send_all(making) || !receive_in_carrier(making)) return false;
  if (!await_link(making, has_open_init)) return making->failed("await the new sandbox");
  if (!clone_in_carrier(making)) return false;
  char byte = 0;
  return (send_packet(plan.link, &byte, 1, nullptr, 0) || making->failed("answer the new init")) &&
         complete_copy(making) &&
         (await_link(making, has_closed_init) || making->failed("await the new init's readiness"));
}

}  // namespace

void drop_capabilities(Script* script, const SessionIdentity& session) {
  struct {
    uint32_t version = 0x20080522, pid = 0;
  } header;
  uint32_t data[6];
  for (int i = 0; i < 6; ++i) data[i] = uint32_t(session.capabilities[i % 3] >> (32 * (i / 3)));
  script->call(SYS_capset, script->data(&header, sizeof header), script->data(data, sizeof data));
}

namespace {

/// The last of what holds it; from here on it runs.
bool let_copy_go(const Making& making) {
  const Frozen& frozen = *making.frozen;
  sched_setaffinity(making.copy, sizeof frozen.cpus,
                    reinterpret_cast<const cpu_set_t*>(frozen.cpus));
  return unmap_area(making.copy, making.registers(), frozen.gadget, frozen.area) &&
         restore_state(making.copy, frozen.state) && detach(making.copy);
}

}  // namespace

bool copy(const Base& base, Frozen* frozen, const CopyPlan& plan, Copied* copied,
          Failure* failure) {
  Making making{base, frozen, plan, failure};
  bool done = make(&making);
  copied->carrier = making.carrier;
  if (done) {
    copied->reaper_pid = pid_at_first(base, making.copy, plan.depth);
    done = start_programs(*frozen, making.copy, making.programs, failure);
    if (done) making.programs.count = 0;  // they run
    done = done && (let_copy_go(making) || making.failed("let the copy go"));
  }
  for (size_t i = making.first_own; i < making.sent_count; ++i)
    if (making.sent[i] != making.slave) close(making.sent[i]);
  if (making.slave >= 0) close(making.slave);
  if (making.sent[0] >= 0) close(making.sent[0]);
  if (!done) {
    kill_programs(making.programs);
    kill_held(making.copy);
    return false;
  }
  copied->pid = making.copy;
  ++frozen->copies;
  return true;
}

}  // namespace espalier::envs::init
