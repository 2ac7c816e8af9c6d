// From a cloned child of the spawner to the init of a sandbox, as a checklist.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "envs/sandbox/init/capabilities.h"
#include "envs/sandbox/init/network.h"
#include "envs/sandbox/init/pty.h"
#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {
namespace {

constexpr const char* kMaskedFiles[] = {"proc/kcore",      "proc/keys",        "proc/key-users",
                                        "proc/kallsyms",   "proc/timer_list",  "proc/sysrq-trigger",
                                        "proc/kmsg",       "proc/config.gz",   "proc/cmdline",
                                        "proc/interrupts", "proc/sched_debug", "proc/latency_stats",
                                        "proc/timer_stats"};
constexpr const char* kMaskedDirs[] = {"proc/acpi", "proc/scsi"};
constexpr const char* kReadOnly[] = {"proc/sys", "proc/irq", "proc/bus", "proc/fs"};
constexpr const char* kSystem[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"};
constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom", "tty"};

/// Everything of the kernel is told to kill this tree first when memory runs out.
void volunteer_for_oom(const Base& base) { write_text(base.proc_fd, "self/oom_score_adj", "1000"); }

bool bind(const char* from, const char* to, Failure* failure) {
  return mount(from, to, nullptr, MS_BIND | MS_REC, nullptr) == 0 ||
         failure->set("bind %s to %s", from, to);
}

bool place_mounts(const SandboxPlan& plan, Failure* failure) {
  if (sys_move_mount(plan.overlay_fd, "/m")) return failure->set("attach the overlay");
  for (const char* name : kSystem) {
    if (plan.request.own_root) break;
    char from[64], to[64];
    snprintf(from, sizeof from, "/b/%s", name);
    snprintf(to, sizeof to, "/m/%s", name);
    struct stat st;
    if (lstat(from, &st) == 0 && !bind(from, to, failure)) return false;
  }
  for (const char* name : kDevices) {
    char from[64], to[64];
    snprintf(from, sizeof from, "/b/dev/%s", name);
    snprintf(to, sizeof to, "/m/dev/%s", name);
    if (!bind(from, to, failure)) return false;
  }
  return true;
}

bool mount_kernel_views(const Base& base, Failure* failure) {
  if (chdir("/m")) return failure->set("chdir to the new root");
  if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr))
    return failure->set("mount proc (a container that masks /proc forbids it)");
  for (const char* path : kMaskedFiles)
    if (mount("dev/null", path, nullptr, MS_BIND, nullptr) && errno != ENOENT)
      return failure->set("mask /%s", path);
  for (const char* path : kMaskedDirs)
    if (mount("/b/empty", path, nullptr, MS_BIND, nullptr) && errno != ENOENT)
      return failure->set("mask /%s", path);
  constexpr unsigned long kFlags =
      MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  for (const char* path : kReadOnly) {
    if (mount(path, path, nullptr, MS_BIND, nullptr)) {
      if (errno == ENOENT) continue;
      return failure->set("bind /%s", path);
    }
    if (mount(nullptr, path, nullptr, kFlags, nullptr)) return failure->set("protect /%s", path);
  }
  // Group tty; an unprivileged user has no group to give.
  const char* options = base.root_mode ? "newinstance,max=64,ptmxmode=0666,mode=0620,gid=5"
                                       : "newinstance,max=64,ptmxmode=0666,mode=0620";
  if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options))
    return failure->set("mount devpts");
  return true;
}

/// The old root is left over proc, where it hides nothing that a session needs to enter.
bool enter_root(const Base& base, const SandboxPlan& plan, Failure* failure) {
  if (!place_mounts(plan, failure) || !mount_kernel_views(base, failure)) return false;
  return (syscall(SYS_pivot_root, ".", "proc") == 0 && chdir("/") == 0) ||
         failure->set("pivot_root");
}

bool leave_old_root(Failure* failure) {
  return umount2("/proc", MNT_DETACH) == 0 || failure->set("detach the old root");
}

bool become_root(const Base& base, Failure* failure) {
  if (base.root_mode) {
    if (syscall(SYS_setgroups, 0, nullptr) || setresgid(0, 0, 0) || setresuid(0, 0, 0))
      return failure->set("become the sandbox's root");
    return true;
  }
  // One uid is all an unprivileged user has: the agent's. The sandbox's root is the same uid with
  // capabilities over it.
  if (unshare(CLONE_NEWUSER)) return failure->set("unshare(CLONE_NEWUSER)");
  if (!write_text(AT_FDCWD, "/proc/self/setgroups", "deny") ||
      !write_text(AT_FDCWD, "/proc/self/gid_map", "1000 0 1") ||
      !write_text(AT_FDCWD, "/proc/self/uid_map", "1000 0 1"))
    return failure->set("map the agent's uid");
  return true;
}

void limit(__rlimit_resource what, uint64_t soft, uint64_t hard) {
  rlimit value{soft, hard};
  setrlimit(what, &value);
}

void set_limits(const wire::SpawnRequest& request) {
  // Where core files go to a program of the host, it is called at 0 as well; at 1 it is not.
  limit(RLIMIT_CORE, 1, 1);
  limit(RLIMIT_NOFILE, 1024, 4096);
  limit(RLIMIT_MEMLOCK, 1 << 20, 1 << 20);
  limit(RLIMIT_MSGQUEUE, 64 << 10, 64 << 10);
  if (request.data_limit) limit(RLIMIT_DATA, request.data_limit, request.data_limit);
  if (request.process_limit) limit(RLIMIT_NPROC, request.process_limit, request.process_limit);
}

bool drop_privileges(const Base& base, Failure* failure) {
  for (int capability = 0; capability <= base.last_capability; ++capability)
    if (!(kBoundingSet & capability_bit(capability)) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
      return failure->set("drop capability %d", capability);
  if (sys_capset(kInitSet, kBoundingSet)) return failure->set("capset");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return failure->set("no_new_privs");
  return true;
}

/// A terminal for the session: its master goes to the trainer, its slave to the keeper.
bool send_terminal(const SandboxPlan& plan, bool root_mode, Pty* pty) {
  uint32_t owner = root_mode && !plan.request.root ? wire::kSandboxAgent : geteuid();
  if (!open_pty(plan.request.terminal, owner, pty)) return false;
  wire::InitReply reply{};
  reply.header.op = wire::InitOp::terminal;
  return send_packet(plan.control_fd, &reply, sizeof reply, &pty->master, 1);
}

/// What the carrier of a session will enter by.
bool introduce(const SandboxPlan& plan) {
  char byte = 0;
  int pidfd = int(syscall(SYS_pidfd_open, getpid(), 0));
  bool done = pidfd >= 0 && send_packet(plan.link_fd, &byte, 1, &pidfd, 1);
  if (pidfd >= 0) close(pidfd);
  return done;
}

/// Lets the session's carrier in, which may look at this process only while it is dumpable.
bool open_door(const SandboxPlan& plan, bool root_mode) {
  char byte = 1;
  Pty pty;
  if (plan.request.terminal.columns && !send_terminal(plan, root_mode, &pty)) return false;
  return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0 &&
         send_packet(plan.link_fd, &byte, 1, &pty.slave, pty.slave >= 0);
}

/// Once it is in; until the keeper hears of it, the copy stands still.
bool close_door(const SandboxPlan& plan) {
  char byte;
  if (read(plan.link_fd, &byte, 1) != 1 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)) return false;
  byte = 2;
  return send_packet(plan.link_fd, &byte, 1, nullptr, 0);
}

/// Leaves standard descriptors on /dev/null and the control socket as descriptor 3.
bool keep_control_only(const SandboxPlan& plan, int* control) {
  int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3 && null >= 0; ++fd) dup2(null, fd);
  *control = dup3(plan.control_fd, 3, O_CLOEXEC) == 3 ? 3 : plan.control_fd;
  return *control == 3 && sys_close_range(4, ~0u) == 0;
}

}  // namespace

void sandbox_main(const Base& base, const SandboxPlan& plan) {
  Failure failure;
  int control = plan.control_fd;
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  prctl(PR_SET_NAME, "espalier-init", 0, 0, 0);
  signal(SIGCHLD, SIG_DFL);
  setsid();
  volunteer_for_oom(base);
  if (plan.request.network) raise_loopback();
  const bool copies = plan.link_fd >= 0;
  bool done = (!copies || introduce(plan) || failure.set("introduce the sandbox")) &&
              (!plan.request.network || close_private_routes(&failure)) &&
              enter_root(base, plan, &failure) && (copies || leave_old_root(&failure)) &&
              become_root(base, &failure);
  if (done && copies)
    done = (open_door(plan, base.root_mode) || failure.set("let the session in")) &&
           leave_old_root(&failure);
  if (done) {
    set_limits(plan.request);
    done = drop_privileges(base, &failure);
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);  // changing ids cleared it
  sched_setaffinity(0, sizeof plan.cpus, &plan.cpus);
  done = done &&
         (copies ? close_door(plan) || failure.set("await the session")
                 : prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 || failure.set("PR_SET_DUMPABLE")) &&
         (keep_control_only(plan, &control) || failure.set("close descriptors"));
  if (!done) {
    wire::InitReply reply{};
    reply.header.op = wire::InitOp::failed;
    reply.error = failure.error;
    memcpy(reply.text, failure.text, sizeof reply.text);
    send_packet(control, &reply, sizeof reply, nullptr, 0);
    _exit(1);
  }
  pid1_loop(control, base, plan.request);
}

}  // namespace espalier::envs::init
