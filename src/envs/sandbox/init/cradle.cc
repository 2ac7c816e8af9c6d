// A cradle: a process that sits in one sandbox's control groups and brings that sandbox's init up,
// so that it is in them from its first instant. Used again once the sandbox is gone.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "envs/sandbox/init/inspect.h"
#include "envs/sandbox/init/layers.h"
#include "envs/sandbox/init/network.h"
#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kMaxGroups = wire::kMaxFds;
constexpr int kAdoptionPasses = 50;
constexpr size_t kMaxFamily = 4096;

alignas(16) char g_message[wire::kMaxMessageBytes];
// Of the children that share memory, and then of the init that is a copy of one of them.
alignas(16) char g_stacks[2][1 << 20];
int g_groups[kMaxGroups];
size_t g_group_count = 0;
pid_t g_init = 0;          // of the sandbox brought up last
cpu_set_t g_cpus;          // where sandboxes may run
int g_own_processes = -1;  // this process's own process namespace

struct Birth {
  const Base* base;
  const SandboxPlan* plan;
  int holder;   // pidfd of the init whose process namespace it is nested in; -1: the spawner's
  int user_ns;  // -1: none (unprivileged)
  uint64_t flags = CLONE_PARENT | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWCGROUP;
  int network = -1;  // to be used again
  bool new_network = false;
  pid_t pid = -1;
  int pidfd = -1;
  Failure failure = {};
};

/// For run_sharing: makes a network namespace.
struct Isolation {
  const Base* base;
  int user_ns;  // its owner
  int network = -1;
};

/// Nothing of an earlier sandbox may show: sockets go with their processes, but closed connections
/// hold their ports for a while.
bool network_is_clean(const Base& base) {
  char text[512];
  int fd = openat(base.proc_fd, "thread-self/net/sockstat", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return false;
  text[n] = 0;
  return strstr(text, "TCP: inuse 0 orphan 0 tw 0 ") != nullptr;
}

/// Runs a function in a child that shares memory and descriptors, and waits for it: nothing is
/// copied for it, and the namespaces it enters are left with it.
pid_t run_sharing(int (*function)(void*), char* stack, int flags, void* argument) {
  return clone(function, stack + sizeof g_stacks[0], CLONE_VM | CLONE_VFORK | CLONE_FILES | flags,
               argument);
}

int isolate(void* argument) {
  Isolation& isolation = *static_cast<Isolation*>(argument);
  if (isolation.user_ns >= 0 && setns(isolation.user_ns, CLONE_NEWUSER)) return 0;
  if (unshare(CLONE_NEWNET)) return 0;
  raise_loopback();
  isolation.network = openat(isolation.base->proc_fd, "thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  return 0;
}

/// Its owner may enter and nobody inside may change it. -1 on failure.
int make_network(const Base& base, int user_ns, char* stack) {
  Isolation isolation{&base, user_ns};
  return run_sharing(isolate, stack, SIGCHLD, &isolation) < 0 ? -1 : isolation.network;
}

bool enter_network(Birth* birth) {
  if (birth->network >= 0 && setns(birth->network, CLONE_NEWNET) == 0 &&
      network_is_clean(*birth->base))
    return true;
  birth->network = make_network(*birth->base, birth->user_ns, g_stacks[1]);
  birth->new_network = birth->network >= 0;
  return birth->new_network && setns(birth->network, CLONE_NEWNET) == 0;
}

int give_birth(void* argument) {
  Birth& birth = *static_cast<Birth*>(argument);
  const Base& base = *birth.base;
  Failure& failure = birth.failure;
  if (birth.plan->request.network)
    birth.flags |= CLONE_NEWNET;
  else if (!enter_network(&birth))
    return failure.set("enter the network namespace");
  if (setns(base.template_ns, CLONE_NEWNS)) return failure.set("enter the template namespace");
  // What it is born with is owned by its user namespace, so that a copied session may enter it.
  if (birth.user_ns >= 0 && setns(birth.user_ns, CLONE_NEWUSER))
    return failure.set("enter the user namespace");
  birth.pid = sys_clone(birth.flags, &birth.pidfd);
  if (birth.pid == 0) sandbox_main(base, *birth.plan);
  return birth.pid > 0 || failure.set("clone the sandbox's first process");
}

/// False when there is no init.
bool bear(Birth* birth) {
  const Base& base = *birth->base;
  // A process namespace can be made by those inside its parent only: so the child that makes it is
  // born there.
  if (birth->holder >= 0 && setns(birth->holder, CLONE_NEWPID))
    return birth->failure.set("enter the process namespace");
  bool born =
      run_sharing(give_birth, g_stacks[0], SIGCHLD, birth) > 0 || birth->failure.set("clone");
  if (birth->holder >= 0 && setns(g_own_processes, CLONE_NEWPID)) _exit(1);
  if (born && birth->pid > 0 && birth->holder >= 0) birth->pid = pid_of(base, birth->pidfd);
  return birth->pid > 0;
}

bool choose_user_namespace(const Base& base, const wire::SpawnRequest& request, int* ns,
                           Failure* failure) {
  *ns = -1;
  if (!base.root_mode) return true;
  errno = ENOSPC;
  if (request.depth >= base.user_ns_count) return failure->set("%u live forks deep", request.depth);
  // The kernel counts RLIMIT_NPROC per user and user namespace.
  *ns = request.process_limit ? make_user_namespace(base, failure)
                              : fcntl(base.user_ns[request.depth], F_DUPFD_CLOEXEC, 0);
  return *ns >= 0;
}

bool layer_is_empty(uint64_t id) {
  int dir = open_layer(id);
  bool empty = dir >= 0 && is_empty(dir);
  if (dir >= 0) close(dir);
  return empty;
}

void handle_spawn(int channel, Base* base, const wire::SpawnRequest& request, const int* fds,
                  size_t fd_count) {
  const auto* layers = reinterpret_cast<const uint64_t*>(&request + 1);
  bring_to(request.cpu, 0);
  SandboxPlan plan;
  plan.request = request;
  plan.cpus = g_cpus;
  bool leave_out = request.leave_out_empty && layer_is_empty(layers[0]);
  plan.request.layer_count -= leave_out;
  plan.control_fd = fds[0];
  const int* originals = fds + 1 + request.reuse_network;  // and its keeper's
  bool copies = fds + fd_count >= originals + 2;
  plan.link_fd = copies ? originals[1] : -1;
  Birth birth{base, &plan, copies ? originals[0] : -1, -1};
  if (request.reuse_network) birth.network = fds[1];
  Failure& failure = birth.failure;
  int out[3] = {-1, -1, -1};
  bool done =
      choose_user_namespace(*base, request, &birth.user_ns, &failure) &&
      make_upper(*base, request.header.id, request.upper_bytes, request.upper_inodes, &failure);
  if (done) plan.overlay_fd = make_overlay(base, plan.request, layers + leave_out, &failure);
  done = done && plan.overlay_fd >= 0;
  if (done) out[1] = openat(plan.overlay_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  done = done && bear(&birth);
  out[0] = birth.pidfd;
  if (birth.new_network) out[2] = birth.network;
  if (done) {
    g_init = birth.pid;
    reply(channel, request.header, nullptr, leave_out, out, birth.new_network ? 3 : 2);
  } else {
    drop_layer(*base, request.header.id);
    reply(channel, request.header, &failure);
  }
  for (int fd : {out[0], out[1], out[2], plan.overlay_fd, birth.user_ns})
    if (fd >= 0) close(fd);
}

void handle_network(const Base& base, int channel, const wire::SpawnerHeader& header) {
  Failure failure;
  errno = ENOSPC;
  int network = -1;
  if (!base.root_mode || header.id < base.user_ns_count)
    network = make_network(base, base.root_mode ? base.user_ns[header.id] : -1, g_stacks[0]);
  if (network < 0) failure.set("make a network namespace");
  reply(channel, header, network < 0 ? &failure : nullptr, 0, &network, network < 0 ? 0 : 1);
  if (network >= 0) close(network);
}

bool read_process_namespace(const Base& base, pid_t pid, char* out, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "%d/ns/pid", pid);
  ssize_t n = readlinkat(base.proc_fd, path, out, size - 1);
  out[n < 0 ? 0 : n] = 0;
  return n > 0;
}

/// Moves a process, unless it is not one of the sandbox's: its pid may be another's by now.
bool move_to_groups(const Base& base, pid_t pid) {
  char ours[64], its[64];
  if (!read_process_namespace(base, g_init, ours, sizeof ours) ||
      !read_process_namespace(base, pid, its, sizeof its) || strcmp(ours, its))
    return false;
  char text[32];
  int length = snprintf(text, sizeof text, "%d", pid);
  for (size_t i = 0; i < g_group_count; ++i)
    if (write(g_groups[i], text, size_t(length)) != length) return false;
  return true;
}

size_t list_children(const Base& base, pid_t pid, pid_t* out, size_t capacity) {
  char path[64];
  static char text[32 * 1024];
  snprintf(path, sizeof path, "%d/task/%d/children", pid, pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  size_t count = 0;
  char* at = text;
  for (char* end; count < capacity && *at; at = end) {
    long child = strtol(at, &end, 10);
    if (end == at) break;
    out[count++] = pid_t(child);
  }
  return count;
}

/// The copied session was born in its original's groups. What it has started by now is moved after
/// it; whatever those start in the meantime is found in the next pass.
void handle_adopt(const Base& base, pid_t session) {
  static pid_t family[kMaxFamily];
  size_t moved = 0;
  for (int pass = 0; pass < kAdoptionPasses; ++pass) {
    size_t count = 1;
    family[0] = session;
    for (size_t i = 0; i < count; ++i)
      count += list_children(base, family[i], family + count, kMaxFamily - count);
    if (count <= moved) return;
    for (size_t i = 0; i < count; ++i) move_to_groups(base, family[i]);
    moved = count;
  }
}

void handle(Base* base, int channel, size_t size, const int* fds, size_t fd_count) {
  wire::SpawnerHeader header;
  memcpy(&header, g_message, sizeof header);
  if (header.op == wire::SpawnerOp::spawn && fd_count && size >= sizeof(wire::SpawnRequest))
    return handle_spawn(channel, base, *reinterpret_cast<const wire::SpawnRequest*>(g_message), fds,
                        fd_count);
  if (header.op == wire::SpawnerOp::network) return handle_network(*base, channel, header);
  if (header.op != wire::SpawnerOp::adopt) _exit(1);
  handle_adopt(*base, reinterpret_cast<const wire::AdoptRequest*>(g_message)->pid);
}

}  // namespace

void cradle_main(Base* base, int channel, const int* groups, size_t group_count) {
  prctl(PR_SET_NAME, "espalier-cradle", 0, 0, 0);
  signal(SIGCHLD, SIG_IGN);  // inits are not waited for: the trainer has their pidfds
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  sched_getaffinity(0, sizeof g_cpus, &g_cpus);
  g_own_processes = openat(base->proc_fd, "self/ns/pid", O_RDONLY | O_CLOEXEC);
  for (size_t i = 0; i < group_count; ++i) {
    g_groups[g_group_count++] = groups[i];
    (void)!write(groups[i], "0", 1);
  }
  for (;;) {
    int fds[wire::kMaxFds];
    size_t fd_count = 0;
    ssize_t n = receive_packet(channel, g_message, sizeof g_message, fds, &fd_count);
    if (n <= 0) _exit(0);
    if (size_t(n) >= sizeof(wire::SpawnerHeader)) handle(base, channel, size_t(n), fds, fd_count);
    for (size_t i = 0; i < fd_count; ++i) close(fds[i]);
  }
}

}  // namespace espalier::envs::init
