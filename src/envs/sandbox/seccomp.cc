#include "envs/sandbox/seccomp.h"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "common/error.h"
#include "envs/sandbox/fd.h"

namespace espalier::envs::sandbox {
namespace {

// The groups of docs/sandbox.md. Names a libseccomp does not know yet are skipped: the kernel it
// knows of does not have them in a form that matters, or they need capabilities that nobody inside
// holds.
constexpr const char* kDenied[] = {
    // mounts and namespaces
    "mount", "umount2", "umount", "pivot_root", "unshare", "setns", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "open_tree", "open_tree_attr", "mount_setattr", "statmount",
    "listmount",
    // other processes' memory and state
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    // kernel programs and asynchronous interfaces
    "bpf", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd",
    "perf_event_open", "fanotify_init", "lookup_dcookie",
    // keys
    "keyctl", "add_key", "request_key",
    // file handles walk past the root
    "open_by_handle_at", "name_to_handle_at",
    // the machine
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "create_module", "swapon", "swapoff", "reboot", "acct", "quotactl", "quotactl_fd", "syslog",
    "settimeofday", "clock_settime", "clock_settime64", "adjtimex", "clock_adjtime",
    "clock_adjtime64", "stime", "iopl", "ioperm", "nfsservctl", "vhangup", "uselib", "_sysctl",
    "modify_ldt", "vm86", "vm86old",
    // memory placement
    "move_pages", "mbind", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages"};

constexpr unsigned kNamespaceFlags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                     CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

struct Release {
  void operator()(void* context) const { seccomp_release(context); }
};
using Filter = std::unique_ptr<void, Release>;

void check(int result, const std::string& what) {
  if (result < 0)
    throw common::SandboxError("build the seccomp filter: " + what + ": " + std::strerror(-result));
}

void deny(const Filter& filter, const char* name, int error) {
  int number = seccomp_syscall_resolve_name(name);
  if (number == __NR_SCMP_ERROR) return;
  int result = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(uint32_t(error)), number, 0);
  if (result != -EDOM && result != -EINVAL) check(result, name);
}

void restrict_clone(const Filter& filter) {
  // One rule a flag: a masked comparison can only test for equality.
  for (unsigned bit = 1; bit; bit <<= 1)
    if (kNamespaceFlags & bit)
      check(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit)),
            "clone");
  // Its flags lie in memory, out of a filter's sight; the C library falls back to clone.
  deny(filter, "clone3", ENOSYS);
}

void restrict_sockets(const Filter& filter) {
  // Allowed: UNIX 1, INET 2, INET6 10, NETLINK 16. A network namespace does not contain AF_VSOCK.
  // The comparison is of all 64 bits: what hides a family under high bits is greater than NETLINK.
  auto refuse = [&](scmp_compare compare, uint64_t family) {
    for (int call : {SCMP_SYS(socket), SCMP_SYS(socketpair)})
      check(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EAFNOSUPPORT), call, 1,
                             SCMP_A0(compare, family)),
            "socket");
  };
  for (uint64_t family : {0, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15}) refuse(SCMP_CMP_EQ, family);
  refuse(SCMP_CMP_GT, AF_NETLINK);
  deny(filter, "socketcall", EAFNOSUPPORT);
}

void restrict_ioctl(const Filter& filter) {
  // The kernel looks at the lower half of the argument only: so must the filter.
  for (uint64_t request : {uint64_t{TIOCSTI}, uint64_t{TIOCLINUX}})
    check(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                           SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, request)),
          "ioctl");
}

/// The limit stays at the one value at which the kernel calls no core-file program of the host.
/// Whoever wants another is told that he has it: a smaller one is a common, harmless wish.
void keep_core_limit(const Filter& filter) {
  const uint32_t pretend = SCMP_ACT_ERRNO(0);
  check(seccomp_rule_add(filter.get(), pretend, SCMP_SYS(setrlimit), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffff, RLIMIT_CORE)),
        "setrlimit");
  check(seccomp_rule_add(filter.get(), pretend, SCMP_SYS(prlimit64), 2,
                         SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, RLIMIT_CORE),
                         SCMP_A2(SCMP_CMP_NE, 0)),
        "prlimit64");
}

}  // namespace

std::string build_seccomp_program() {
  Filter filter(seccomp_init(SCMP_ACT_ALLOW));
  if (!filter) throw common::SandboxError("build the seccomp filter: libseccomp is out of memory");
  check(seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
        "architecture");
  // A binary tree of comparisons instead of a list.
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const char* name : kDenied) deny(filter, name, EPERM);
  restrict_clone(filter);
  restrict_sockets(filter);
  restrict_ioctl(filter);
  keep_core_limit(filter);
  Fd file = make_memory_file("seccomp", "");
  check(seccomp_export_bpf(filter.get(), file.get()), "export");
  off_t size = lseek(file.get(), 0, SEEK_END);
  std::string program(size_t(size), '\0');
  if (pread(file.get(), program.data(), program.size(), 0) != size)
    throw_errno("read the seccomp filter");
  return program;
}

}  // namespace espalier::envs::sandbox
