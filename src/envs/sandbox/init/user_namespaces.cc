// The user namespaces of sandboxes: one for all that were started, and for all that are n live
// forks away from a start another one, nested n deep.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {
namespace {

bool write_maps(const Base& base, pid_t pid, const char* map) {
  char path[64];
  snprintf(path, sizeof path, "%d/uid_map", pid);
  if (!write_text(base.proc_fd, path, map)) return false;
  snprintf(path, sizeof path, "%d/gid_map", pid);
  return write_text(base.proc_fd, path, map);
}

int open_namespace(const Base& base, pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "%d/ns/user", pid);
  return openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
}

/// Becomes the agent, so that the namespace made next is his.
bool make_as_agent() {
  constexpr uid_t kAgent = wire::kSandboxAgent;
  return prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0 &&
         syscall(SYS_setgroups, 0, nullptr) == 0 && setresgid(kAgent, kAgent, kAgent) == 0 &&
         setresuid(kAgent, kAgent, kAgent) == 0 && unshare(CLONE_NEWUSER) == 0 &&
         prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

struct Nesting {
  const Base* base;
  int outer;
  pid_t pid = 0;  // of the process that holds the new namespace
  int hold[2] = {-1, -1};
  int error = 0;
};

/// In a child with the spawner's rights inside `outer`: only there may the maps be written.
int nest(Nesting* nesting) {
  int ready[2];
  char byte = 0;
  if (setns(nesting->outer, CLONE_NEWUSER) || pipe2(ready, O_CLOEXEC)) return errno;
  pid_t pid = sys_clone(CLONE_PARENT, nullptr);
  if (pid < 0) return errno;
  if (pid == 0) {
    close(nesting->hold[1]);
    byte = make_as_agent() ? 0 : char(errno);
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    (void)!read(nesting->hold[0], &byte, 1);
    _exit(0);
  }
  nesting->pid = pid;
  close(ready[1]);
  if (read(ready[0], &byte, 1) != 1) return EPIPE;
  if (byte) return byte;
  return write_maps(*nesting->base, pid, "0 0 65536") ? 0 : errno;
}

}  // namespace

int make_user_namespace(const Base& base, Failure* failure) {
  int hold[2];
  if (pipe2(hold, O_CLOEXEC)) return failure->set("pipe"), -1;
  pid_t child = sys_clone(CLONE_NEWUSER, nullptr);
  if (child < 0) return failure->set("clone(CLONE_NEWUSER)"), -1;
  if (child == 0) {
    close(hold[1]);
    char byte;
    (void)!read(hold[0], &byte, 1);
    _exit(0);
  }
  char map[64];
  snprintf(map, sizeof map, "0 %u 65536", base.uid_base);
  int ns = write_maps(base, child, map) ? open_namespace(base, child) : -1;
  if (ns < 0) failure->set("map uids 0-65535 to %u-", base.uid_base);
  close(hold[0]);
  close(hold[1]);
  waitpid(child, nullptr, 0);
  return ns;
}

int nest_user_namespace(const Base& base, int outer, Failure* failure) {
  Nesting nesting{&base, outer};
  int report[2];
  if (pipe2(nesting.hold, O_CLOEXEC) || pipe2(report, O_CLOEXEC)) return failure->set("pipe"), -1;
  pid_t helper = sys_clone(0, nullptr);
  if (helper == 0) {
    int message[2] = {nest(&nesting), nesting.pid};
    _exit(write(report[1], message, sizeof message) != sizeof message);
  }
  int message[2] = {EPIPE, 0};
  close(report[1]);
  if (helper > 0 && !read_exact(report[0], message, sizeof message)) message[0] = EPIPE;
  int ns = message[0] == 0 ? open_namespace(base, message[1]) : -1;
  errno = message[0] ? message[0] : errno;
  if (ns < 0) failure->set("nest a user namespace");
  for (int fd : {report[0], nesting.hold[0], nesting.hold[1]}) close(fd);
  if (helper > 0) waitpid(helper, nullptr, 0);
  if (message[1] > 0) waitpid(message[1], nullptr, 0);
  return ns;
}

}  // namespace espalier::envs::init
