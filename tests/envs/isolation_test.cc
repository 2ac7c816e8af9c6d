// What a sandbox must not allow (docs/sandbox.md), tried from inside; and that the backend goes on.
#include "isolation.h"

#include <linux/capability.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

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

/// A socket of the host's that listens, by its path.
class Listener {
 public:
  explicit Listener(const std::string& path) : path_(path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    listens_ = bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
               chmod(path.c_str(), 0777) == 0 && listen(socket_, 1) == 0;
  }
  ~Listener() {
    close(socket_);
    unlink(path_.c_str());
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  bool listens() const { return listens_; }

 private:
  std::string path_;
  int socket_ = -1;
  bool listens_ = false;
};

// Home directories, data, keys, sockets: something planted at each of the usual places.
TEST_F(Isolation, NothingOfThePlacesWhereSecretsLieIsThere) {
  const std::string name = ".espalier-isolation-" + std::to_string(getpid());
  std::vector<std::string> planted;
  const char* home = std::getenv("HOME");
  for (const std::string& directory :
       {std::string(home ? home : "/root"), std::string("/home"), std::string("/root"),
        std::string("/srv"), std::string("/opt"), std::string("/mnt"), std::string("/media"),
        std::string("/var"), std::string("/var/lib"), std::string("/etc"), std::string("/etc/ssl"),
        std::string("/run"), std::string("/tmp"), std::string("/dev/shm")}) {
    const std::string path = directory + "/" + name;
    std::ofstream(path) << "secret-of-the-host";
    if (std::filesystem::exists(path)) planted.push_back(path);
  }
  ASSERT_FALSE(planted.empty());
  std::string all;
  for (const std::string& path : planted) all += " " + path;
  EXPECT_THAT(both("cat" + all +
                   "; grep -rs secret-of-the-host /home /root /srv /opt /mnt /media "
                   "/var /run /tmp /dev/shm /etc"),
              Not(HasSubstr("secret-of-the-host")));
  EXPECT_EQ(both("find / -xdev -name " + name + " 2>/dev/null"), "");
  for (const std::string& path : planted) unlink(path.c_str());

  const std::string socket = (directory_.path() / "engine.sock").string();
  Listener listener(socket), run_listener("/run/" + name);
  ASSERT_TRUE(listener.listens());
  EXPECT_EQ(both("ls -d " + socket + " /run/" + name + " 2>/dev/null"), "");
  EXPECT_EQ(both("find / -xdev -type s 2>/dev/null"), "");
  EXPECT_EQ(
      both("find / -xdev \\( -name 'id_rsa*' -o -name 'id_ed25519*' -o -name '*.kdbx' -o -name "
           "shadow -o -name 'ssh_host_*_key' -o -name .netrc -o -name .git-credentials "
           "\\) -not -path '/usr/share/*' -readable 2>/dev/null"),
      "");
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

TEST_F(Isolation, TheUsersAreNobodyOnTheHost) {
  const std::string marker = std::to_string(getpid()) + ".25";
  run(*environment_, "sleep 1" + marker + " &");
  std::string inside = output_of(*environment_, "cat /proc/self/uid_map | tr -s ' '");
  if (geteuid() != 0) {
    EXPECT_EQ(inside, " 1000 0 1\n") << "one user: the one who started it";
    return;
  }
  EXPECT_EQ(inside, " 0 100000 65536\n");
  auto processes = host_processes("sleep 1" + marker);
  ASSERT_EQ(processes.size(), 1u);
  std::string status = common::read_file("/proc/" + std::to_string(processes.front()) + "/status");
  EXPECT_THAT(status, HasSubstr("Uid:\t101000\t101000\t101000\t101000"));
  EXPECT_THAT(status, HasSubstr("Gid:\t101000\t101000\t101000\t101000"));
  EXPECT_THAT(status, HasSubstr("Groups:\t \n"));
}

TEST_F(Isolation, DevicesMountsAndNamespacesByTheUsualTools) {
  EXPECT_EQ(allowed({{"mount", "mount -t tmpfs none /mnt"},
                     {"bind", "mount --bind /tmp /mnt"},
                     {"remount", "mount -o remount,rw /usr"},
                     {"umount", "umount /proc"},
                     {"unshare", "unshare -Ur true"},
                     {"unshare-mount", "unshare -m true"},
                     {"nsenter", "nsenter -t 1 -m true"},
                     {"mknod-disk", "mknod /tmp/sda b 8 0"},
                     {"mknod-kmsg", "mknod /tmp/kmsg c 1 11"},
                     {"write-usr", "touch /usr/bin/x"},
                     {"hostname", "hostname other"},
                     {"date", "date -s 2001-01-01"},
                     {"dmesg", "dmesg | grep ."},
                     {"devices",
                      "ls /dev/sd* /dev/vd* /dev/nvme* /dev/mem /dev/kvm /dev/fuse "
                      "/dev/kmsg /dev/vsock 2>/dev/null | grep ."}}),
            "");
}

TEST_F(Isolation, TheKernelsFilesAreMasked) {
  EXPECT_EQ(allowed({{"sys", "ls -A /sys | grep ."},
                     {"kcore", "head -c1 /proc/kcore | grep ."},
                     {"keys", "grep . /proc/keys"},
                     {"key-users", "grep . /proc/key-users"},
                     {"kallsyms", "grep . /proc/kallsyms"},
                     {"kmsg", "timeout 1 head -c1 /proc/kmsg | grep ."},
                     {"config", "head -c1 /proc/config.gz | grep ."},
                     {"cmdline", "grep -a . /proc/cmdline"},
                     {"timer_list", "grep . /proc/timer_list"},
                     {"sched_debug", "grep . /proc/sched_debug"},
                     {"interrupts", "grep . /proc/interrupts"},
                     {"acpi", "ls -A /proc/acpi | grep ."},
                     {"scsi", "ls -A /proc/scsi | grep ."},
                     {"slabinfo", "grep . /proc/slabinfo"},
                     {"kpagemap", "head -c8 /proc/kpageflags | grep -a ."},
                     {"sysrq", "echo b > /proc/sysrq-trigger && [ -s /proc/sysrq-trigger ]"},
                     {"core_pattern", "echo core > /proc/sys/kernel/core_pattern"},
                     {"hostname", "echo other > /proc/sys/kernel/hostname"},
                     {"drop_caches", "echo 1 > /proc/sys/vm/drop_caches"},
                     {"inotify", "echo 1 > /proc/sys/fs/inotify/max_user_watches"},
                     {"binfmt",
                      "ls /proc/sys/fs/binfmt_misc | grep . || "
                      "echo x > /proc/sys/fs/binfmt_misc/register"},
                     {"irq", "echo 1 > /proc/irq/default_smp_affinity"},
                     {"oom_score_adj", "echo -1000 > /proc/self/oom_score_adj"}}),
            "");
  // Where the supervisor may raise the lower bound of the score along with the score.
  unsigned long long capabilities = 0;
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "CapEff:") status >> std::hex >> capabilities;
  if (geteuid() == 0 && (capabilities >> CAP_SYS_RESOURCE & 1)) {
    EXPECT_EQ(allowed({{"oom_score_adj", "echo 0 > /proc/self/oom_score_adj"}}), "")
        << "when memory runs out sandboxes die before anything of the host";
  }
}

TEST_F(Isolation, TheFirstProcessIsOutOfReach) {
  EXPECT_EQ(allowed({{"environ", "cat /proc/1/environ"},
                     {"maps", "grep . /proc/1/maps"},
                     {"mem", "head -c1 /proc/1/mem"},
                     {"fd", "ls /proc/1/fd/ | grep ."},
                     {"exe", "cat /proc/1/exe"},
                     {"root", "ls /proc/1/root/"},
                     {"cwd", "ls /proc/1/cwd/"},
                     {"stack", "grep . /proc/1/stack"},
                     {"syscall", "grep . /proc/1/syscall"},
                     {"namespaces", "readlink /proc/1/ns/mnt"}}),
            "");
  run(*environment_, "kill -9 1; kill -TERM 1; kill -STOP 1");
  as_root(*environment_, "kill -9 1; kill -TERM 1; kill -STOP 1");
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
}

TEST_F(Isolation, NoPathOfTheHostShowsInTheMounts) {
  std::string seen = both("cat /proc/self/mountinfo /proc/self/mounts");
  EXPECT_THAT(seen, Not(HasSubstr(std::filesystem::temp_directory_path().string() + "/espalier")));
  EXPECT_THAT(seen, Not(HasSubstr(directory_.path().string())));
  EXPECT_THAT(seen, Not(HasSubstr("/home/")));
}

TEST_F(Isolation, NoDescriptorsOfTheTrainerAreInherited) {
  EXPECT_EQ(output_of(*environment_, "bash -c 'echo /proc/self/fd/*'"),
            "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
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

}  // namespace
}  // namespace espalier::envs::testing
