// Live forks: what a copied session has of its original, that neither touches the other afterwards,
// and what is refused.
#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class LiveFork : public SandboxTest {
 protected:
  void SetUp() override {
    SandboxTest::SetUp();
    if (!backend_) return;
    environment_ = create();
    auto probe = create();
    if (fork_of(*probe).kind != ForkKind::live)
      GTEST_SKIP() << "this machine does not let sessions be copied: " << ::geteuid();
  }
  void TearDown() override { environment_.reset(); }

  /// Forks the environment, which must be done live.
  EnvironmentPtr child() {
    Fork fork = fork_of(*environment_);
    EXPECT_EQ(fork.kind, ForkKind::live);
    return std::move(fork.child);
  }
  /// The command says the same in the forked environment, in its child and before.
  EnvironmentPtr expect_same(const std::string& command) {
    std::string before = output_of(*environment_, command);
    EnvironmentPtr child = this->child();
    EXPECT_EQ(output_of(*child, command), before);
    EXPECT_EQ(output_of(*environment_, command), before);
    return child;
  }
  /// Not live, by value or not at all: the reason. The environment is unharmed.
  std::string refusal() {
    run(*environment_, "witness=unharmed");
    std::string why = "forked";
    try {
      Fork fork = fork_of(*environment_);
      EXPECT_NE(fork.kind, ForkKind::live);
      why = to_string(fork.kind);
    } catch (const common::NotForkable& e) {
      why = e.what();
    }
    EXPECT_EQ(output_of(*environment_, "echo $witness"), "unharmed\n");
    return why;
  }

  EnvironmentPtr environment_;
};

TEST_F(LiveFork, VariablesFunctionsOptionsTrapsAndHistory) {
  run(*environment_,
      "declare -A map=([a]=1 [b c]=2); list=(x 'y z'); declare -i n=3; readonly fixed=f\n"
      "greet() { echo \"hello $1 ${map[b c]}\"; }; alias ll='ls -l'\n"
      "mkdir -p d/e; cd d/e; set -u -o pipefail; shopt -s extglob nullglob; umask 027\n"
      "trap 'echo bye' EXIT; trap 'echo usr' USR1; set -- one 'two three'; set -o history\n"
      "history -s 'first line'; history -s 'second line'; RANDOM=42; hash cat; set +o history");
  EnvironmentPtr child = expect_same(
      "declare -p map list n fixed; declare -f greet; alias; pwd; shopt; set +o; umask; trap -p;"
      "echo $#:$1:$2; history; hash; greet you; echo $$ $BASHPID $PPID");
  run(*child, "n=77; cd /; map[a]=changed; unset -f greet; trap - EXIT");
  EXPECT_EQ(output_of(*environment_, "echo $n ${map[a]}; pwd; greet me"),
            "3 1\n/app/d/e\nhello me 2\n");
  run(*environment_, "n=55");
  EXPECT_EQ(output_of(*child, "echo $n; pwd"), "77\n/\n");
}

TEST_F(LiveFork, TheStateOfTheRandomGenerator) {
  run(*environment_, "RANDOM=42");
  EnvironmentPtr child = this->child();
  EXPECT_EQ(output_of(*child, "echo $RANDOM $RANDOM $RANDOM"),
            output_of(*environment_, "echo $RANDOM $RANDOM $RANDOM"));
}

TEST_F(LiveFork, OpenFilesKeepTheirOffsetsAndDoNotMoveOneAnother) {
  run(*environment_,
      "seq 100 > f; exec 5<f; read -u 5 a; read -u 5 b; exec 6<&5; exec 7<f; exec 8</app");
  EnvironmentPtr child = this->child();
  EXPECT_EQ(output_of(*child, "read -u 5 x; read -u 6 y; read -u 7 z; echo $a $b $x $y $z"),
            "1 2 3 4 1\n");
  EXPECT_EQ(output_of(*environment_, "read -u 6 x; read -u 5 y; read -u 7 z; echo $x $y $z"),
            "3 4 1\n");
  EXPECT_EQ(output_of(*child, "read -u 5 x; echo $x; ls /proc/$$/fd/8/ >&2"), "5\nf\n");
}

TEST_F(LiveFork, DeletedFilesAndHereDocuments) {
  run(*environment_,
      "printf 'one\\ntwo\\nthree\\n' > gone; exec 5<gone; rm gone; read -u 5 a\n"
      "exec 6<<END\nfirst\nsecond\nEND\nread -u 6 b; exec 7< <(seq 3); sleep 0.2");
  EnvironmentPtr child = this->child();
  std::string rest = "read -u 5 x; read -u 6 y; read -u 7 z; echo $a $b $x $y $z";
  EXPECT_EQ(output_of(*child, rest), "one first two second 1\n");
  EXPECT_EQ(output_of(*environment_, rest), "one first two second 1\n");
  EXPECT_EQ(output_of(*child, "read -u 7 z; echo $z; cat <&5"), "2\nthree\n");
}

TEST_F(LiveFork, AForkedSessionIsForkedAgainAndAgain) {
  std::vector<EnvironmentPtr> line;
  Environment* current = environment_.get();
  for (int i = 0; i < 8; ++i) {
    run(*current, "steps+=" + std::to_string(i) + "; echo " + std::to_string(i) + " >> log");
    Fork fork = fork_of(*current);
    EXPECT_EQ(fork.kind, ForkKind::live);
    run(*current, "steps+=x; echo x >> log");
    line.push_back(std::move(fork.child));
    current = line.back().get();
  }
  EXPECT_EQ(output_of(*current, "echo $steps; cat log | tr '\\n' ' '"),
            "01234567\n0 1 2 3 4 5 6 7 ");
  EXPECT_EQ(output_of(*environment_, "echo $steps; cat log | tr '\\n' ' '"), "0x\n0 x ");
}

TEST_F(LiveFork, PastTheDepthTheKernelNestsItGoesOnByValue) {
  bool by_value = false;
  for (int i = 0; i < 40; ++i) {
    run(*environment_, "n=" + std::to_string(i) + "; echo $n > file");
    Fork fork = fork_of(*environment_);
    by_value = by_value || fork.kind == ForkKind::value;
    environment_ = std::move(fork.child);
    ASSERT_EQ(output_of(*environment_, "echo $n; cat file"),
              std::to_string(i) + "\n" + std::to_string(i) + "\n");
  }
  EXPECT_TRUE(by_value);
}

TEST_F(LiveFork, ManyChildrenOfOneStateAndAnyOrderOfTheirEnds) {
  run(*environment_, "x=root; echo root > file");
  std::vector<EnvironmentPtr> children;
  for (int i = 0; i < 6; ++i) children.push_back(child());
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(output_of(*children[size_t(i)], "x+=" + std::to_string(i) + "; echo $x; cat file"),
              "root" + std::to_string(i) + "\nroot\n");
  environment_.reset();  // the parent first
  EXPECT_EQ(output_of(*children[3], "echo $x"), "root3\n");
  Fork grandchild = fork_of(*children[3]);
  children.clear();
  EXPECT_EQ(output_of(*grandchild.child, "echo $x; cat file"), "root3\nroot\n");
}

TEST_F(LiveFork, NeitherSeesNorKillsTheOther) {
  EnvironmentPtr child = this->child();
  run(*child, "sleep 1000 & disown");
  EXPECT_EQ(output_of(*environment_, "pgrep -c sleep; ps -e --no-headers | grep -c bash"),
            "0\n1\n");
  run(*environment_, "pkill -9 sleep; kill -9 -1; killall -q -9 bash sleep");
  EXPECT_EQ(output_of(*child, "pgrep -c sleep; echo alive"), "1\nalive\n");
  Fork next = fork_of(*create());
  run(*child, "kill -9 -1");
  EXPECT_EQ(output_of(*next.child, "echo alive"), "alive\n");
}

TEST_F(LiveFork, ExitsAreReported) {
  EnvironmentPtr child = this->child();
  Observation seen = run(*child, "exit 7");
  EXPECT_TRUE(seen.shell_exited);
  EXPECT_EQ(seen.exit_code, 7);
  seen = run(*environment_, "kill -9 $$");
  EXPECT_TRUE(seen.shell_exited);
  EXPECT_EQ(seen.exit_code, 137);
}

TEST_F(LiveFork, TimeoutsAndInterrupts) {
  EnvironmentPtr child = this->child();
  Observation seen = run(*child, "sleep 1000", 0.2);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_FALSE(seen.shell_exited);
  EXPECT_EQ(output_of(*child, "echo on"), "on\n");
  seen = run(*child, "trap '' INT TERM; while :; do :; done", 0.2);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
}

TEST_F(LiveFork, TheCopyIsConfinedAsItsOriginal) {
  EnvironmentPtr child = expect_same(
      "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/$$/status; ulimit -a;"
      "cat /proc/$$/oom_score_adj; cut -d' ' -f2-3 /proc/self/mounts | sort; id; hostname; tty");
  EXPECT_THAT(output_of(*child, "unshare -U true; mount -t tmpfs x /mnt; cat /proc/1/environ"),
              HasSubstr("denied"));
  EXPECT_EQ(output_of(*child, "ls /proc/*/fd >/dev/null 2>&1; ls /proc/self/fd | wc -l"),
            output_of(*environment_, "ls /proc/*/fd >/dev/null 2>&1; ls /proc/self/fd | wc -l"));
}

TEST_F(LiveFork, LoopbackPortsAreIndependent) {
  const std::string server =
      "python3 -c 'import socket,time; s=socket.socket(); s.bind((\"127.0.0.1\", 8080)); "
      "s.listen();"
      " print(\"bound\", flush=True); time.sleep(1000)' > port 2>&1 & disown; sleep 0.5; cat port";
  EnvironmentPtr child = this->child();
  EXPECT_EQ(output_of(*environment_, server), "bound\n");
  EXPECT_EQ(output_of(*child, "echo > /dev/tcp/127.0.0.1/8080 && echo reached"),
            output_of(*create(), "echo > /dev/tcp/127.0.0.1/8080 && echo reached"));
  EXPECT_EQ(output_of(*child, server), "bound\n");
}

TEST_F(LiveFork, AlarmsAndPipelinesWorkInTheCopy) {
  EnvironmentPtr child = this->child();
  EXPECT_EQ(
      output_of(*child, "seq 1000 | sort -n | tail -1; (echo sub); echo $(echo $(echo deep))"),
      "1000\nsub\ndeep\n");
  EXPECT_EQ(
      output_of(*child, "sleep 0.1 & wait $!; echo waited $?; kill -l 9; read -t 0.1 x; echo $?"),
      "waited 0\nKILL\n1\n");
  EXPECT_EQ(
      output_of(*child, "cd /app; echo $OLDPWD; cat < /dev/stdin; echo to > /dev/stdout"),
      output_of(*environment_, "cd /app; echo $OLDPWD; cat < /dev/stdin; echo to > /dev/stdout"));
}

TEST_F(LiveFork, ASnapshotOfACopyOpens) {
  run(*environment_, "x=1; echo one > file");
  EnvironmentPtr child = this->child();
  run(*child, "x=2; echo two >> file");
  SnapshotId id = snapshot_of(*child);
  SnapshotId resting = snapshot_of(*environment_);
  EXPECT_EQ(output_of(*open(id), "echo $x; cat file"), "2\none\ntwo\n");
  EXPECT_EQ(output_of(*open(resting), "echo $x; cat file"), "1\none\n");
}

TEST_F(LiveFork, EveryOperationWakesAnEnvironmentThatRests) {
  run(*environment_, "echo data > file");
  EnvironmentPtr child = this->child();
  EXPECT_EQ(environment_->read_file("/app/file", 100), "data\n");
  put_file(*environment_, "/app/put", "put\n");
  EXPECT_EQ(exec(*environment_, {"cat", "/app/put", "/app/file"}, false).output, "put\ndata\n");
  EXPECT_EQ(environment_->read_file("/app/put", 100), "put\n");
  EXPECT_EQ(child->read_file("/app/put", 100), std::nullopt);
  EXPECT_EQ(output_of(*environment_, "cat put"), "put\n");
}

TEST_F(LiveFork, ABackgroundProcessIsNotCarried) {
  run(*environment_, "sleep 1000 &");
  EXPECT_THAT(refusal(), HasSubstr("process"));
  EXPECT_EQ(output_of(*environment_, "jobs | grep -c Running"), "1\n");
  run(*environment_, "kill %1; wait; (setsid sleep 1000 &); sleep 0.1");
  EXPECT_THAT(refusal(), HasSubstr("process"));
}

TEST_F(LiveFork, AFileOpenForWritingIsNotCarried) {
  run(*environment_, "exec 5>>file; echo before >&5");
  EXPECT_THAT(refusal(), HasSubstr("descriptor 5"));
  EXPECT_EQ(output_of(*environment_, "echo after >&5; cat file"), "before\nafter\n");
}

TEST_F(LiveFork, ASocketIsNotCarried) {
  run(*environment_, "exec 5<>/dev/udp/127.0.0.1/9");
  EXPECT_THAT(refusal(), HasSubstr("descriptor 5"));
}

TEST_F(LiveFork, ClosingInTheMiddleLeavesNothing) {
  for (int i = 0; i < 20; ++i) {
    EnvironmentPtr environment = create();
    auto forked = std::make_shared<std::promise<void>>();
    auto future = forked->get_future();
    environment->fork([forked](common::Result<Fork>) { forked->set_value(); });
    if (i % 2) std::this_thread::sleep_for(std::chrono::microseconds(200 * i));
    environment.reset();
    future.wait();
  }
  EXPECT_EQ(output_of(*environment_, "echo fine"), "fine\n");
}

}  // namespace
}  // namespace espalier::envs::testing
