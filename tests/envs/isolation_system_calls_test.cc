// What seccomp, no_new_privs and the capability set must refuse, tried from python3 inside: as the
// agent and as the sandbox's root.
#include "isolation.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// Prints "NAME ALLOWED" or "NAME errno" for each call; numbers are x86-64's.
constexpr const char* kCalls = R"(
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(name, 'ALLOWED' if result >= 0 else errno.errorcode[ctypes.get_errno()])
)";

class SystemCalls : public Isolation {
 protected:
  void SetUp() override {
    Isolation::SetUp();
    if (environment_ && !has("python3"))
      GTEST_SKIP() << "the system calls are made from python3, which this machine lacks";
  }
  std::string try_calls(const std::string& python) {
    put_file(*environment_, "/opt/try.py", kCalls + python);
    return both("python3 /opt/try.py");
  }
  /// Every "NAME ERROR" line occurs twice: as the agent, as the sandbox's root.
  void expect_refused(const std::string& seen, const std::vector<std::string>& names,
                      const std::string& error) {
    for (const std::string& name : names) {
      const std::string line = name + " " + error + "\n";
      const size_t first = seen.find(line);
      EXPECT_TRUE(first != std::string::npos && seen.find(line, first + 1) != std::string::npos)
          << name << " is not refused with " << error << " to both users:\n"
          << seen;
    }
  }
};

TEST_F(SystemCalls, TheMountFamily) {
  std::string seen = try_calls(R"(
call('mount', 165, b'none', b'/tmp', b'tmpfs', 0, 0)
call('umount2', 166, b'/proc', 2)
call('pivot_root', 155, b'.', b'.')
call('fsopen', 430, b'tmpfs', 0)
call('fsconfig', 431, 0, 0, 0, 0, 0)
call('fsmount', 432, 0, 0, 0)
call('fspick', 433, -100, b'/', 0)
call('open_tree', 428, -100, b'/', 1)
call('move_mount', 429, 0, b'', 0, b'', 0)
call('mount_setattr', 442, -100, b'/', 0, 0, 0)
)");
  expect_refused(seen,
                 {"mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick",
                  "open_tree", "move_mount", "mount_setattr"},
                 "EPERM");
}

TEST_F(SystemCalls, Namespaces) {
  std::string seen = try_calls(R"(
for name, flag in [('ns', 0x20000), ('cgroup', 0x2000000), ('uts', 0x4000000), ('ipc', 0x8000000),
                   ('user', 0x10000000), ('pid', 0x20000000), ('net', 0x40000000), ('time', 0x80)]:
    call('unshare_' + name, 272, flag)
    if name != 'time':
        call('clone_' + name, 56, ctypes.c_ulong(flag | 17), 0, 0, 0, 0)
        call('clone_high_' + name, 56, ctypes.c_ulong(1 << 40 | flag | 17), 0, 0, 0, 0)
call('setns', 308, 0, 0)
call('clone3', 435, 0, 0)
)");
  std::vector<std::string> names = {"setns", "unshare_time"};
  for (const char* name : {"ns", "cgroup", "uts", "ipc", "user", "pid", "net"})
    for (const char* call : {"unshare_", "clone_", "clone_high_"})
      names.push_back(std::string(call) + name);
  expect_refused(seen, names, "EPERM");
  // As if it were unknown: libraries then use clone, whose flags can be seen.
  expect_refused(seen, {"clone3"}, "ENOSYS");
}

TEST_F(SystemCalls, OtherProcessesAndKernelPrograms) {
  std::string seen = try_calls(R"(
call('ptrace', 101, 16, 1, 0, 0)
call('ptrace_traceme', 101, 0, 0, 0, 0)
call('process_vm_readv', 310, 1, 0, 0, 0, 0, 0)
call('process_vm_writev', 311, 1, 0, 0, 0, 0, 0)
call('process_madvise', 440, 0, 0, 0, 0, 0)
call('kcmp', 312, 1, 1, 0, 0, 0)
call('pidfd_getfd', 438, 0, 0, 0)
call('bpf', 321, 0, 0, 0)
call('io_uring_setup', 425, 1, 0)
call('io_uring_enter', 426, 0, 0, 0, 0, 0, 0)
call('io_uring_register', 427, 0, 0, 0, 0)
call('userfaultfd', 323, 1)
call('perf_event_open', 298, 0, 0, 0, 0, 0)
call('fanotify_init', 300, 0, 0)
call('keyctl', 250, 0, 0)
call('add_key', 248, b'user', b'x', b'y', 1, -3)
call('request_key', 249, b'user', b'x', 0, 0)
call('open_by_handle_at', 304, 0, 0, 0)
call('name_to_handle_at', 303, -100, b'/', 0, 0, 0)
)");
  expect_refused(
      seen,
      {"ptrace", "ptrace_traceme", "process_vm_readv", "process_vm_writev", "process_madvise",
       "kcmp", "pidfd_getfd", "bpf", "io_uring_setup", "io_uring_enter", "io_uring_register",
       "userfaultfd", "perf_event_open", "fanotify_init", "keyctl", "add_key", "request_key",
       "open_by_handle_at", "name_to_handle_at"},
      "EPERM");
}

TEST_F(SystemCalls, TheMachine) {
  std::string seen = try_calls(R"(
call('kexec_load', 246, 0, 0, 0, 0)
call('kexec_file_load', 320, -1, -1, 0, 0, 0)
call('init_module', 175, 0, 0, b'')
call('finit_module', 313, -1, b'', 0)
call('delete_module', 176, b'none', 0)
call('reboot', 169, 0, 0, 0, 0)
call('syslog', 103, 10, 0, 0)
call('swapon', 167, b'/x', 0)
call('swapoff', 168, b'/x')
call('acct', 163, b'/x')
call('quotactl', 179, 0, 0, 0, 0)
call('settimeofday', 164, 0, 0)
call('clock_settime', 227, 0, 0)
call('adjtimex', 159, 0)
call('iopl', 172, 3)
call('ioperm', 173, 0, 1, 1)
call('vhangup', 153)
call('modify_ldt', 154, 0, 0, 0)
call('mbind', 237, 0, 0, 0, 0, 0, 0)
call('move_pages', 279, 0, 0, 0, 0, 0, 0)
call('migrate_pages', 256, 0, 0, 0, 0)
)");
  expect_refused(
      seen, {"kexec_load",   "kexec_file_load", "init_module",   "finit_module", "delete_module",
             "reboot",       "syslog",          "swapon",        "swapoff",      "acct",
             "quotactl",     "settimeofday",    "clock_settime", "adjtimex",     "iopl",
             "ioperm",       "vhangup",         "modify_ldt",    "mbind",        "move_pages",
             "migrate_pages"},
      "EPERM");
}

TEST_F(SystemCalls, TerminalInjection) {
  std::string seen = try_calls(R"(
call('tiocsti', 16, 0, ctypes.c_ulong(0x5412), b'x')
call('tiocsti_high', 16, 0, ctypes.c_ulong(0x100005412), b'x')
call('tioclinux', 16, 0, ctypes.c_ulong(0x541c), b'x')
)");
  expect_refused(seen, {"tiocsti", "tiocsti_high", "tioclinux"}, "EPERM");
}

TEST_F(SystemCalls, SocketFamilies) {
  // Only whether a socket can be made is asked: nothing is ever connected.
  std::string seen = try_calls(R"(
families = [f for f in range(47) if f not in (1, 2, 10, 16)]
for family in families:
    for kind in (1, 2, 3, 5):
        ctypes.set_errno(0)
        if libc.socket(family, kind, 0) >= 0: print('socket', family, kind, 'ALLOWED')
        elif ctypes.get_errno() != errno.EAFNOSUPPORT: print('socket', family, 'PASSED THE FILTER', ctypes.get_errno())
        pair = (ctypes.c_int * 2)()
        if libc.socketpair(family, kind, 0, pair) >= 0: print('pair', family, kind, 'ALLOWED')
        elif ctypes.get_errno() != errno.EAFNOSUPPORT: print('pair', family, 'PASSED THE FILTER', ctypes.get_errno())
call('vsock', 41, 40, 1, 0)
call('vsock_high', 41, ctypes.c_ulong(1 << 32 | 40), 1, 0)
call('alg_high', 41, ctypes.c_ulong(1 << 63 | 38), 5, 0)
call('packet', 41, 17, 3, 0)
call('raw', 41, 2, 3, 1)
import socket
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6): socket.socket(family, socket.SOCK_STREAM)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
print('rest', 'USABLE')
)");
  EXPECT_THAT(seen, Not(HasSubstr("ALLOWED")));
  EXPECT_THAT(seen, Not(HasSubstr("PASSED THE FILTER")));
  expect_refused(seen, {"vsock", "vsock_high", "alg_high", "packet"}, "EAFNOSUPPORT");
  expect_refused(seen, {"raw"}, "EPERM");
  expect_refused(seen, {"rest"}, "USABLE");
}

TEST_F(SystemCalls, OtherArchitectures) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "the second architecture tried is that of x86-64 machines";
#endif
  // The same calls by their numbers of another interface would pass by a filter that does not look
  // at the architecture: the process is killed instead.
  put_file(*environment_, "/opt/i386.py", R"(
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b'\xb8\x14\x00\x00\x00\xcd\x80\xc3')  # getpid by int 0x80
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print('ALLOWED')
)");
  put_file(*environment_, "/opt/x32.py", R"(
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(ctypes.c_long(0x40000000 + 39))  # getpid of x32
print('ALLOWED')
)");
  for (const char* name : {"i386", "x32"}) {
    Observation seen = run(*environment_, std::string("python3 /opt/") + name + ".py");
    EXPECT_THAT(seen.output, Not(HasSubstr("ALLOWED"))) << name;
    EXPECT_EQ(seen.exit_code, 128 + SIGSYS) << name << ": " << seen.output;
  }
}

TEST_F(SystemCalls, NoCoreFileProgramOfTheHostIsCalled) {
  std::string seen = try_calls(R"(
import resource
for wanted in (0, 1, 0):
    resource.setrlimit(resource.RLIMIT_CORE, (wanted, wanted))
    resource.prlimit(0, resource.RLIMIT_CORE, (wanted, wanted))
print('core', *resource.getrlimit(resource.RLIMIT_CORE))
)");
  EXPECT_EQ(seen, "core 1 1\ncore 1 1\n");
  EXPECT_EQ(
      output_of(*environment_,
                "cd /tmp; ulimit -c 0; (bash -c 'kill -SEGV $$'; :) >/dev/null 2>&1; ls /tmp"),
      "");
}

TEST_F(Isolation, PrivilegesCannotBeGained) {
  std::string seen = both("grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status");
  EXPECT_THAT(seen, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(seen, HasSubstr("Seccomp:\t2"));
  EXPECT_THAT(seen, HasSubstr("CapBnd:\t00000000800405fb"));
  EXPECT_EQ(output_of(*environment_, "grep CapEff /proc/self/status"),
            "CapEff:\t0000000000000000\n");
  // A set-user-id program is an ordinary one.
  as_root(*environment_,
          "cp /bin/bash /opt/sh; chmod 6755 /opt/sh; cp /bin/bash /opt/caps; "
          "setcap cap_sys_admin+ep /opt/caps");
  EXPECT_EQ(output_of(*environment_, "/opt/sh -p -c 'id -u; id -g'"), "1000\n1000\n");
  EXPECT_THAT(output_of(*environment_, "/opt/caps -c 'grep CapEff /proc/self/status'"),
              HasSubstr("CapEff:\t0000000000000000"));
  EXPECT_EQ(output_of(*environment_,
                      "su -c 'id -u' root </dev/null 2>/dev/null; "
                      "sudo -n id -u 2>/dev/null"),
            "");
}

}  // namespace
}  // namespace espalier::envs::testing
