// What a sandbox must not allow (docs/sandbox.md), tried from inside; and that the backend goes on.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Isolation : public SandboxTest {
 protected:
  void SetUp() override {
    SandboxTest::SetUp();
    if (backend_) environment_ = create();
  }
  void TearDown() override {
    // Whatever was tried, a new environment works.
    if (backend_) {
      EXPECT_EQ(output_of(*create(), "echo works"), "works\n");
    }
    environment_.reset();
  }
  bool has(const std::string& program) {
    return run(*environment_, "command -v " + program + " >/dev/null").exit_code == 0;
  }
  /// Runs a script both as the agent and as the sandbox's root; both outputs.
  std::string both(const std::string& script) {
    return run(*environment_, script).output + as_root(*environment_, script).output;
  }

  EnvironmentPtr environment_;
};

TEST_F(Isolation, TheHostsFilesCannotBeSeen) {
  std::string secret = "secret-" + std::to_string(getpid());
  write_host_file(directory_.path() / "planted", secret, 0644);
  std::string path = (directory_.path() / "planted").string();
  EXPECT_THAT(both("cat " + path + "; cat /proc/1/root" + path + "; ls /proc/1/root /proc/1/cwd"),
              Not(HasSubstr(secret)));
  EXPECT_EQ(output_of(*environment_,
                      "ls -A /root /home/agent /opt /srv /mnt /media /tmp /var/lib /run 2>/dev/null"
                      " | grep -v : | grep -v '^$' | grep -v '^lock$'"),
            "");
  EXPECT_EQ(output_of(*environment_, "ls -A /home"), "agent\n");
  EXPECT_THAT(both("cat /etc/shadow /etc/gshadow; ls /etc/ssh /etc/ssl/private"),
              Not(HasSubstr("root:")));
  EXPECT_EQ(environment_->read_file("/etc/shadow", 100), std::nullopt);
}

TEST_F(Isolation, SymlinksAndDotDotDoNotLeadOut) {
  write_host_file(directory_.path() / "planted", "outside", 0644);
  std::string path = (directory_.path() / "planted").string();
  run(*environment_, "ln -s " + path + " abs; ln -s ../../../../../../.." + path +
                         " rel; ln -s /proc/self/environ env;"
                         "ln -s /proc/1/root" +
                         path + " proc");
  for (const char* name : {"/app/abs", "/app/rel", "/app/env", "/app/proc", "/../../etc/shadow"})
    EXPECT_EQ(environment_->read_file(name, 100), std::nullopt) << name;
}

TEST_F(Isolation, TheHostsEnvironmentAndProcessesCannotBeSeen) {
  setenv("ESPALIER_TEST_SECRET", "not-for-agents", 1);
  SandboxTest::SetUp();  // a supervisor that was started with the variable set
  auto environment = create();
  std::string seen = output_of(*environment, "env; cat /proc/*/environ") +
                     as_root(*environment, "env; cat /proc/*/environ").output;
  EXPECT_THAT(seen, Not(HasSubstr("not-for-agents")));
  EXPECT_EQ(output_of(*environment, "ls -d /proc/[0-9]* | wc -l | tr -d ' '").size(), 2u);
  environment.reset();
  unsetenv("ESPALIER_TEST_SECRET");
  environment_.reset();
  SandboxTest::SetUp();
}

TEST_F(Isolation, TheHostsProcessesCannotBeKilled) {
  pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  std::string kill_it =
      "kill -9 " + std::to_string(child) + "; kill -9 " + std::to_string(getpid()) + "; kill -9 1;";
  run(*environment_, kill_it);
  as_root(*environment_, kill_it + "kill -9 -1");
  EXPECT_EQ(kill(child, 0), 0);
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(Isolation, TheNetworkCannotBeReached) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  socklen_t size = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  std::string port = std::to_string(ntohs(address.sin_port));
  EXPECT_THAT(both("(echo > /dev/tcp/127.0.0.1/" + port + ") && echo reached"),
              Not(HasSubstr("reached")));
  fcntl(listener, F_SETFL, O_NONBLOCK);
  EXPECT_LT(accept(listener, nullptr, nullptr), 0);
  close(listener);
  EXPECT_EQ(output_of(*environment_, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
  EXPECT_THAT(both("(echo > /dev/tcp/192.0.2.1/80) 2>&1"), HasSubstr("unreachable"));
  // Its own loopback does work.
  if (has("python3")) {
    EXPECT_EQ(output_of(*environment_,
                        "python3 -c \"import socket; s=socket.create_server(('127.0.0.1',8000));"
                        "c=socket.create_connection(('127.0.0.1',8000)); print('own')\""),
              "own\n");
  }
}

TEST_F(Isolation, ForbiddenSystemCalls) {
  if (!has("python3"))
    GTEST_SKIP() << "the system calls are made from python3, which this machine lacks";
  // Only whether a socket can be made is asked: nothing is ever connected.
  put_file(*environment_, "/opt/try.py", R"(
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    print(name, 'ALLOWED' if result >= 0 else errno.errorcode[ctypes.get_errno()])
for name, number, arguments in [
    ('mount', 165, (b'none', b'/tmp', b'tmpfs', 0, 0)), ('umount2', 166, (b'/proc', 2)),
    ('pivot_root', 155, (b'.', b'.')), ('unshare', 272, (0x10000000,)), ('unshare_ns', 272, (0x20000,)),
    ('setns', 308, (0, 0)), ('ptrace', 101, (16, 1, 0, 0)), ('bpf', 321, (0, 0, 0)),
    ('keyctl', 250, (0, 0)), ('add_key', 248, (b'user', b'x', b'y', 1, -3)),
    ('io_uring_setup', 425, (1, 0)), ('userfaultfd', 323, (0,)), ('perf_event_open', 298, (0, 0, 0, 0, 0)),
    ('open_by_handle_at', 304, (0, 0, 0)), ('process_vm_readv', 310, (1, 0, 0, 0, 0, 0)),
    ('fsopen', 430, (b'tmpfs', 0)), ('open_tree', 428, (-100, b'/', 1)), ('move_mount', 429, (0, b'', 0, b'', 0)),
    ('kexec_load', 246, (0, 0, 0, 0)), ('init_module', 175, (0, 0, b'')), ('reboot', 169, (0, 0, 0, 0)),
    ('syslog', 103, (10, 0, 0)), ('swapon', 167, (b'/x', 0)), ('settimeofday', 164, (0, 0)),
    ('clone_newuser', 56, (0x10000000 | 17, 0, 0, 0, 0)), ('clone_newns', 56, (0x20000 | 17, 0, 0, 0, 0)),
    ('clone3', 435, (0, 0)), ('tiocsti', 16, (0, 0x5412, b'x'))]:
    call(name, number, *arguments)
for name, family in [('vsock', 40), ('packet', 17), ('alg', 38), ('can', 29), ('bluetooth', 31), ('xdp', 44)]:
    try:
        socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW)
        print(name, 'ALLOWED')
    except OSError as e:
        print(name, errno.errorcode[e.errno])
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    print('raw ALLOWED')
except OSError as e:
    print('raw', errno.errorcode[e.errno])
)");
  std::string seen = both("python3 /opt/try.py");
  EXPECT_THAT(seen, Not(HasSubstr("ALLOWED")));
  for (const char* line :
       {"mount EPERM", "unshare EPERM", "ptrace EPERM", "clone3 ENOSYS", "clone_newuser EPERM",
        "vsock EAFNOSUPPORT", "packet EAFNOSUPPORT", "tiocsti EPERM", "io_uring_setup EPERM"})
    EXPECT_THAT(seen, HasSubstr(line));
}

TEST_F(Isolation, EscapesByTheUsualTools) {
  std::string seen = both(
      "mount -t tmpfs none /mnt && echo ALLOWED; umount /proc && echo ALLOWED;"
      "unshare -Ur true && echo ALLOWED; nsenter -t 1 -m true && echo ALLOWED;"
      "mknod /tmp/sda b 8 0 && echo ALLOWED; mknod /tmp/kmsg c 1 11 && echo ALLOWED;"
      "cat /proc/1/environ >/dev/null && echo ALLOWED; cat /proc/1/maps | grep . && echo ALLOWED;"
      "ls /proc/1/fd/ | grep . && echo ALLOWED; cat /proc/kcore | head -c1 | grep . && echo "
      "ALLOWED;"
      "echo core > /proc/sys/kernel/core_pattern && echo ALLOWED; echo 1 > "
      "/proc/sys/vm/drop_caches && echo ALLOWED;"
      "echo b > /proc/sysrq-trigger && echo ALLOWED; echo -1000 > /proc/self/oom_score_adj && echo "
      "ALLOWED;"
      "dmesg 2>/dev/null | grep . && echo ALLOWED; touch /usr/bin/x && echo ALLOWED;"
      "mount -o remount,rw /usr && echo ALLOWED; hostname other && echo ALLOWED;"
      "su -c true root </dev/null && [ $(id -u) = 1000 ] && echo ALLOWED; date -s 2001-01-01 "
      ">/dev/null && echo ALLOWED;"
      "ls /sys/* | grep . && echo ALLOWED; ls /dev/sd* /dev/vd* /dev/mem /dev/kvm /dev/fuse "
      "2>/dev/null && echo ALLOWED");
  EXPECT_THAT(seen, Not(HasSubstr("ALLOWED")));
  seen = both("grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status");
  EXPECT_THAT(seen, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(seen, HasSubstr("Seccomp:\t2"));
  EXPECT_THAT(seen, HasSubstr("CapBnd:\t00000000800405fb"));
  EXPECT_EQ(output_of(*environment_, "grep CapEff /proc/self/status"),
            "CapEff:\t0000000000000000\n");
}

TEST_F(Isolation, NoDescriptorsOfTheTrainerAreInherited) {
  EXPECT_EQ(output_of(*environment_, "bash -c 'echo /proc/self/fd/*'"),
            "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
}

TEST_F(Isolation, AFullDiskIsAnErrorInside) {
  EnvironmentSpec spec;
  spec.limits.disk_bytes = 8 << 20;
  spec.limits.disk_inodes = 500;
  auto environment = create(spec);
  Observation seen = run(*environment, "head -c 20M /dev/zero > big");
  EXPECT_NE(seen.exit_code, 0);
  EXPECT_THAT(seen.output, HasSubstr("No space left on device"));
  EXPECT_EQ(output_of(*environment, "rm big; echo still"), "still\n");
  EXPECT_THAT(output_of(*environment, "for i in {1..1000}; do : > f$i || break; done; echo end"),
              HasSubstr("No space left on device"));
  EXPECT_EQ(output_of(*environment, "rm -f f*; head -c 1M /dev/zero > /dev/shm/x; echo ok"),
            "ok\n");
}

TEST_F(Isolation, AForkBombMeetsItsLimit) {
  EnvironmentSpec spec;
  spec.limits.pids = 24;
  auto environment = create(spec);
  Observation seen = run(*environment, "bash -c 'for i in $(seq 200); do sleep 1000 & done'", 2);
  EXPECT_THAT(seen.output, HasSubstr("Resource temporarily unavailable"));
  environment = create(spec);
  run(*environment, "b() { b | b & }; b; sleep 1000", 0.5);
}

TEST_F(Isolation, AMemoryBombMeetsItsLimit) {
  if (!has("python3")) GTEST_SKIP() << "memory is filled from python3, which this machine lacks";
  EnvironmentSpec spec;
  spec.limits.memory_bytes = 64 << 20;
  spec.limits.disk_bytes = 16 << 20;
  auto environment = create(spec);
  Observation seen = run(*environment, "python3 -c 'x = bytearray(400 << 20); print(\"ALLOWED\")'");
  EXPECT_NE(seen.exit_code, 0);
  EXPECT_THAT(seen.output, Not(HasSubstr("ALLOWED")));
  EXPECT_EQ(output_of(*environment, "echo still"), "still\n");
}

TEST_F(Isolation, TheVerifierIsOutOfTheAgentsReach) {
  // A reward or tests planted beforehand, as files or as links.
  run(*environment_,
      "echo 1 > /logs/verifier/reward.txt; ln -sf /app/mine /logs/verifier/reward.json;"
      "echo '{\"reward\": 1}' > mine; mkdir -p /tests; echo 'exit 0' > /tests/test.sh");
  Verdict seen = verify_with(*environment_, "#!/bin/sh\ntrue\n");
  EXPECT_EQ(seen.failure, "RewardFileNotFoundError");
  // A link at the place of the reward leads nowhere outside.
  write_host_file(directory_.path() / "one", "1", 0644);
  seen = verify_with(*environment_, "#!/bin/sh\nln -s " + (directory_.path() / "one").string() +
                                        " /logs/verifier/reward.txt\n");
  EXPECT_EQ(seen.failure, "RewardFileNotFoundError");
  if (geteuid() == 0) {
    seen = verify_with(*environment_, "#!/bin/sh\necho 0 > /logs/verifier/reward.txt\n");
    EXPECT_NE(run(*environment_, "echo 1 > /logs/verifier/reward.txt").exit_code, 0);
    EXPECT_NE(run(*environment_, "echo 'exit 0' > /tests/test.sh").exit_code, 0);
    EXPECT_EQ(seen.reward, 0.0);
  }
}

TEST_F(Isolation, SandboxesDoNotMeet) {
  auto other = create();
  run(*environment_, "echo mine > /tmp/f; echo mine > /dev/shm/f; sleep 1000 &");
  EXPECT_EQ(output_of(*other, "cat /tmp/f /dev/shm/f 2>/dev/null; pgrep sleep; ls /dev/shm"), "");
  run(*other, "kill -9 -1");
  EXPECT_EQ(output_of(*environment_, "pgrep -c sleep"), "1\n");
}

TEST_F(Isolation, FloodingOutputIsBounded) {
  Observation seen = run(*environment_, "yes", 0.5);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_LT(seen.output.size(), Limits{}.output_bytes + 100);
}

TEST(IsolationOfDeath, AKilledTrainerTakesItsSandboxesAlong) {
  // Orphans come to this process: whatever outlives the child is seen here.
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  int tell[2];
  ASSERT_EQ(pipe2(tell, O_CLOEXEC), 0);
  pid_t child = fork();
  if (child == 0) {
    char result = 'n';
    try {
      auto backend = make_sandbox_backend({});
      auto environment =
          common::await<EnvironmentPtr>([&](auto done) { backend->create({}, std::move(done)); });
      environment->run("sleep 1000", Deadline::max(), [](auto) {});
      result = 'y';
      (void)!write(tell[1], &result, 1);
      for (;;) pause();
    } catch (const common::Error&) {
      (void)!write(tell[1], &result, 1);
      _exit(0);
    }
  }
  char result = 0;
  ASSERT_EQ(read(tell[0], &result, 1), 1);
  kill(child, SIGKILL);
  // Returns once every descendant is gone; hangs, and fails by the runner's time limit, otherwise.
  int gone = 0;
  while (waitpid(-1, nullptr, 0) > 0) ++gone;
  EXPECT_EQ(errno, ECHILD);
  close(tell[0]);
  close(tell[1]);
  prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
  if (result != 'y') GTEST_SKIP() << "no sandboxes on this machine";
  EXPECT_GE(gone, 2);
}

/// The same suites as an unprivileged user.
TEST(Rootless, ConformanceAndIsolationHoldForAnUnprivilegedUser) {
  if (geteuid() != 0) GTEST_SKIP() << "these tests run unprivileged already";
  constexpr uid_t kUser = 54321;
  int program = open("/proc/self/exe", O_RDONLY);
  ASSERT_GE(program, 0);
  common::TempDir home("espalier-rootless");
  ASSERT_EQ(chown(home.path().c_str(), kUser, kUser), 0);
  int out[2];
  ASSERT_EQ(pipe(out), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(out[1], 1);
    dup2(out[1], 2);
    std::string temporary = "TMPDIR=" + home.path().string();
    char name[] = "test_envs", filter[] = "--gtest_filter=*Conformance*/sandbox:Isolation.*";
    char* argv[] = {name, filter, nullptr};
    char* env[] = {temporary.data(), nullptr};
    if (chdir("/") || setgid(kUser) || setuid(kUser)) _exit(99);
    fexecve(program, argv, env);
    _exit(98);
  }
  close(out[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(out[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
  close(out[0]);
  close(program);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) >= 98)
    GTEST_SKIP() << "cannot become uid " << kUser << " here";
  if (text.find("no sandboxes on this machine") != std::string::npos)
    GTEST_SKIP() << "unprivileged user namespaces are not allowed here:\n" << text;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
}

}  // namespace
}  // namespace espalier::envs::testing
