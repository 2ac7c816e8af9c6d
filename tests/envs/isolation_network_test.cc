// The network: none unless asked for, and then the public one only.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "envs/sandbox/network.h"
#include "isolation.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

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
/// Listens on every address of this network namespace; the port.
int listen_everywhere(int* listener) {
  *listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  if (bind(*listener, reinterpret_cast<sockaddr*>(&address), size) || listen(*listener, 8) ||
      getsockname(*listener, reinterpret_cast<sockaddr*>(&address), &size))
    return 0;
  return ntohs(address.sin_port);
}

/// A small Internet: this process's network namespace is the host, with a service on all of its
/// addresses; behind a cable lies 203.0.113.5, which answers "public" on kPublicPort.
class SmallInternet {
 public:
  static constexpr int kPublicPort = 4321;

  SmallInternet() {
    if (unshare(CLONE_NEWNET)) return;
    int ready[2];
    if (pipe2(ready, O_CLOEXEC)) return;
    server_ = fork();
    if (server_ == 0) serve(ready[1]);
    close(ready[1]);
    char byte;
    const std::string server = std::to_string(server_);
    made_ = read(ready[0], &byte, 1) == 1 &&
            sh("ip link set lo up && ip addr add 10.77.0.1/32 dev lo && "
               "ip link add v0 type veth peer name v1 netns " +
               server +
               " && "
               "ip addr add 203.0.113.1/24 dev v0 && ip link set v0 up && "
               "nsenter -t " +
               server +
               " -n sh -c 'ip link set lo up && "
               "ip addr add 203.0.113.5/24 dev v1 && ip link set v1 up'");
    close(ready[0]);
    port_ = listen_everywhere(&listener_);
  }
  ~SmallInternet() {
    if (server_ > 0) kill(server_, SIGKILL);
    if (server_ > 0) waitpid(server_, nullptr, 0);
    close(listener_);
  }
  bool made() const { return made_ && port_ > 0; }
  std::string port() const { return std::to_string(port_); }
  bool anybody_came() const { return accept(listener_, nullptr, nullptr) >= 0; }

 private:
  static bool sh(const std::string& command) {
    return system(("(" + command + ") >/dev/null 2>&1").c_str()) == 0;
  }
  [[noreturn]] static void serve(int ready) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    unshare(CLONE_NEWNET);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kPublicPort);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) ||
        listen(listener, 8))
      _exit(1);
    (void)!write(ready, "y", 1);
    for (;;) {
      int client = accept(listener, nullptr, nullptr);
      (void)!write(client, "public\n", 7);
      close(client);
    }
  }

  pid_t server_ = -1;
  int listener_ = -1, port_ = 0;
  bool made_ = false;
};

class PublicNetworkTest : public SandboxTest {
 protected:
  /// Its network namespace is replaced: in a process of its own.
  void in_a_small_internet(void (PublicNetworkTest::*test)(const SmallInternet&)) {
    if (geteuid() != 0) GTEST_SKIP() << "laying cables takes root";
    backend_.reset();
    const pid_t child = fork();
    if (child == 0) {
      int code = 77;
      {
        const SmallInternet internet;
        if (internet.made()) {
          SandboxTest::SetUp();
          if (backend_) (this->*test)(internet);
          backend_.reset();
          code = HasFailure() ? 1 : 0;
        }
      }
      fflush(nullptr);
      _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
      GTEST_SKIP() << "this machine has no `ip`, `nsenter` or virtual cables to lay";
    EXPECT_EQ(status, 0) << "see above";
  }
  EnvironmentPtr create_with_network() {
    EnvironmentSpec spec;
    spec.network = true;
    return create(spec);
  }

 public:
  void only_the_public_network(const SmallInternet& internet);
  void forks_have_it_too(const SmallInternet& internet);
};

constexpr const char* kAskPublic = "timeout 10 cat < /dev/tcp/203.0.113.5/4321";

void PublicNetworkTest::only_the_public_network(const SmallInternet& internet) {
  int abstract = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, "\0espalier-test", 14);
  ASSERT_EQ(bind(abstract, reinterpret_cast<sockaddr*>(&name), sizeof(sa_family_t) + 14), 0);
  ASSERT_EQ(listen(abstract, 1), 0);

  EnvironmentPtr environment = create_with_network();
  EXPECT_EQ(output_of(*environment, kAskPublic), "public\n");
  // The host: its loopback as slirp4netns would offer it, its private and its public address.
  for (const char* host : {"127.0.0.1", "10.0.2.2", "10.77.0.1", "203.0.113.1"}) {
    const std::string reach = "timeout 5 bash -c 'echo > /dev/tcp/" + std::string(host) + "/" +
                              internet.port() + "' 2>/dev/null && echo reached";
    EXPECT_EQ(output_of(*environment, reach), "") << host;
    EXPECT_EQ(as_root(*environment, reach).output, "") << host;
  }
  EXPECT_FALSE(internet.anybody_came());
  // A cloud's metadata service, neighbours.
  for (const char* host : {"169.254.169.254", "192.168.0.1", "172.17.0.1", "100.64.0.1"})
    EXPECT_THAT(output_of(*environment, "(echo > /dev/tcp/" + std::string(host) + "/80) 2>&1"),
                HasSubstr("No route to host"))
        << host;
  EXPECT_EQ(as_root(*environment,
                    "ip route del unreachable 10.0.0.0/8 2>/dev/null && echo gone; "
                    "ip addr add 10.77.0.9/24 dev tap0 2>/dev/null && echo added")
                .output,
            "");
  if (run(*environment, "command -v python3").exit_code == 0) {
    EXPECT_THAT(output_of(*environment,
                          "python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); "
                          "s.connect(b'\\0espalier-test'); print('reached')\" 2>&1"),
                HasSubstr("ConnectionRefusedError"));
  }
  EXPECT_LT(accept(abstract, nullptr, nullptr), 0);
  close(abstract);
  EXPECT_EQ(output_of(*environment, "cat /etc/resolv.conf"), "nameserver 10.0.2.3\n");
  // Another one, without.
  EXPECT_THAT(output_of(*create(), std::string(kAskPublic) + " 2>&1"), HasSubstr("unreachable"));
}

void PublicNetworkTest::forks_have_it_too(const SmallInternet&) {
  EnvironmentPtr environment = create_with_network();
  run(*environment, "x=1; echo 1 > f");
  EnvironmentPtr child = fork_of(*environment).child;
  EXPECT_EQ(output_of(*child, kAskPublic), "public\n");
  EXPECT_EQ(output_of(*environment, kAskPublic), "public\n");
  environment.reset();
  EXPECT_EQ(output_of(*child, kAskPublic), "public\n");
}

TEST_F(PublicNetworkTest, LeadsToNothingOfTheHost) {
  if (const std::string why = sandbox::why_no_network(); !why.empty()) GTEST_SKIP() << why;
  in_a_small_internet(&PublicNetworkTest::only_the_public_network);
}

TEST_F(PublicNetworkTest, ForksHaveItToo) {
  if (const std::string why = sandbox::why_no_network(); !why.empty()) GTEST_SKIP() << why;
  in_a_small_internet(&PublicNetworkTest::forks_have_it_too);
}

TEST_F(PublicNetworkTest, IsRefusedWithWhatToInstallWhereItCannotBeHad) {
  if (sandbox::why_no_network().empty()) {
    EnvironmentPtr environment = create_with_network();
    EXPECT_EQ(output_of(*environment, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort"),
              "lo\ntap0\n");
    return;
  }
  try {
    create_with_network();
    FAIL() << "a network without slirp4netns";
  } catch (const common::Unsupported& error) {
    EXPECT_THAT(error.what(), HasSubstr("install"));
  }
}

}  // namespace
}  // namespace espalier::envs::testing
