// What every environment backend promises (envs/environment.h).
#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

enum class Kind { sandbox, sandbox_disk_upper };

class Conformance : public SandboxTest, public ::testing::WithParamInterface<Kind> {
 protected:
  SandboxOptions options() const override {
    SandboxOptions options;
    options.force_disk_upper = GetParam() == Kind::sandbox_disk_upper;
    return options;
  }
  void SetUp() override {
    SandboxTest::SetUp();
    if (backend_) environment_ = create();
  }
  void TearDown() override { environment_.reset(); }

  EnvironmentPtr environment_;
};

TEST_P(Conformance, ShellKeepsItsStateBetweenCommands) {
  run(*environment_,
      "x='a  b'; f() { echo \"f:$x:$1\"; }; mkdir -p d/e; cd d/e; set -u; umask 027");
  Observation seen = run(*environment_, "f 1; pwd; umask; echo ${nothing}");
  EXPECT_THAT(seen.output, HasSubstr("f:a  b:1\n/app/d/e\n0027\n"));
  EXPECT_THAT(seen.output, HasSubstr("nothing: unbound variable"));
  EXPECT_EQ(seen.exit_code, 1);
  EXPECT_FALSE(seen.shell_exited);
}

TEST_P(Conformance, ExitCodesAndDollarQuestion) {
  EXPECT_EQ(run(*environment_, "(exit 42)").exit_code, 42);
  EXPECT_EQ(output_of(*environment_, "echo $?"), "42\n");
  EXPECT_EQ(run(*environment_, "false").exit_code, 1);
  EXPECT_EQ(output_of(*environment_, "echo $?; declare -F"), "1\n");
  EXPECT_EQ(run(*environment_, "no-such-command").exit_code, 127);
  EXPECT_EQ(run(*environment_, "bash -c 'kill -9 $$'").exit_code, 137);
  EXPECT_EQ(run(*environment_, "true").exit_code, 0);
}

TEST_P(Conformance, OutputIsInterleavedAsWritten) {
  Observation seen = run(
      *environment_, "for i in 1 2 3; do echo out$i; echo err$i >&2; sh -c \"echo sub$i\"; done");
  EXPECT_EQ(seen.output, "out1\nerr1\nsub1\nout2\nerr2\nsub2\nout3\nerr3\nsub3\n");
  EXPECT_EQ(seen.output_bytes, seen.output.size());
}

TEST_P(Conformance, ErrorsReadAsAtAPrompt) {
  EXPECT_EQ(output_of(*environment_, "nope"), "bash: nope: command not found\n");
  EXPECT_THAT(output_of(*environment_, "echo 'unfinished"), HasSubstr("unexpected EOF"));
  EXPECT_EQ(run(*environment_, "if then").exit_code, 2);
  EXPECT_FALSE(run(*environment_, "break; echo ${x?bad}").shell_exited);
  EXPECT_EQ(output_of(*environment_, "echo $0"), "bash\n");
}

TEST_P(Conformance, StandardInputIsEmptyAndManyLinesAreOneCommand) {
  EXPECT_EQ(output_of(*environment_, "cat; echo end"), "end\n");
  EXPECT_EQ(output_of(*environment_, "cat <<EOF\nit's $((1+1))\nEOF\necho \"q'q\""),
            "it's 2\nq'q\n");
}

TEST_P(Conformance, BytesPassUnchangedInBothDirections) {
  std::string seen =
      output_of(*environment_, "printf '\\377\\000\\001\\r\\n'; printf '%s' '\xff\xc3\xa9'");
  EXPECT_EQ(seen, std::string("\xff\0\x01\r\n\xff\xc3\xa9", 8));
}

TEST_P(Conformance, LongCommandsAndLongOutputs) {
  std::string text(200'000, 'x');
  Observation seen = run(*environment_, "y=" + text + "; echo ${#y}");
  EXPECT_EQ(seen.output, "200000\n");
  seen = run(*environment_, "seq 1 200000");
  EXPECT_EQ(seen.output_bytes, 1288895u);
  EXPECT_LT(seen.output.size(), Limits{}.output_bytes + 100);
  EXPECT_EQ(seen.output.substr(0, 4), "1\n2\n");
  EXPECT_EQ(seen.output.substr(seen.output.size() - 7), "200000\n");
  size_t kept = Limits{}.output_bytes;
  EXPECT_THAT(seen.output,
              HasSubstr("[... " + std::to_string(1288895 - kept) + " bytes omitted ...]"));
}

TEST_P(Conformance, ExitEndsTheShellAndItsCodeIsReported) {
  Observation seen = run(*environment_, "trap 'echo bye' EXIT; echo hi; exit 7");
  EXPECT_TRUE(seen.shell_exited);
  EXPECT_EQ(seen.exit_code, 7);
  EXPECT_EQ(seen.output, "hi\nbye\n");
  EXPECT_THROW(run(*environment_, "true"), common::SandboxError);
  // What the shell left is still there to be judged.
  EXPECT_EQ(verify_with(*environment_, "#!/bin/sh\necho 1 > /logs/verifier/reward.txt\n").reward,
            1.0);
}

TEST_P(Conformance, ADeadlineKillsTheCommandNotTheSession) {
  run(*environment_, "x=kept");
  Observation seen = run(*environment_, "echo before; sleep 1000; echo after", 0.2);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_FALSE(seen.shell_exited);
  EXPECT_THAT(seen.output, HasSubstr("before\n"));
  EXPECT_EQ(output_of(*environment_, "echo $x; pgrep sleep"), "kept\n");
}

TEST_P(Conformance, ADeadlineKillsAShellThatDoesNotComeBack) {
  Observation seen = run(*environment_, "while :; do :; done", 0.2);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_TRUE(seen.shell_exited);
}

TEST_P(Conformance, InterruptEndsACommandAsItsDeadlineWould) {
  std::promise<Observation> seen;
  environment_->run("sleep 1000", Deadline::max(),
                    [&](common::Result<Observation> r) { seen.set_value(std::move(r).get()); });
  environment_->interrupt();
  Observation observation = seen.get_future().get();
  EXPECT_TRUE(observation.timed_out || observation.exit_code == 137);
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
}

TEST_P(Conformance, ABackgroundProcessDoesNotHoldUpLaterCommands) {
  Observation seen = run(*environment_, "sleep 1000 & echo started");
  EXPECT_EQ(seen.output, "started\n");
  EXPECT_EQ(output_of(*environment_, "echo next"), "next\n");
  EXPECT_EQ(output_of(*environment_, "kill %1; wait %1 2>/dev/null; echo $?"), "143\n");
}

TEST_P(Conformance, FilesAreTheAgentsWithTheirModes) {
  std::filesystem::path files = directory_.path() / "files";
  write_host_file(files / "plain", "hello\n", 0644);
  write_host_file(files / "locked", "secret\n", 0000);
  write_host_file(files / "dir" / "tool", "#!/bin/sh\necho ran\n", 0755);
  std::filesystem::create_symlink("plain", files / "link");
  EnvironmentSpec spec;
  spec.files = files;
  spec.workdir = "/srv/place";
  spec.variables["GREETING"] = "two words";
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment, "pwd; cat link; dir/tool; echo \"$GREETING\"; id -un"),
            "/srv/place\nhello\nran\ntwo words\nagent\n");
  Observation seen = run(*environment, "cat locked");
  EXPECT_EQ(seen.output, "cat: locked: Permission denied\n");
  EXPECT_EQ(seen.exit_code, 1);
  EXPECT_EQ(output_of(*environment, "chmod +r locked; cat locked; stat -c '%a %U' plain dir/tool"),
            "secret\n644 agent\n755 agent\n");
  // Environments of one task share its files, not what they do to them.
  auto other = create(spec);
  EXPECT_EQ(output_of(*other, "rm plain; ls"), "dir\nlink\nlocked\n");
  EXPECT_EQ(output_of(*environment, "cat plain"), "hello\n");
}

TEST_P(Conformance, ForkCarriesShellAndFilesAndBothGoOnIndependently) {
  run(*environment_,
      "mkdir d && cd d && echo one > f; x=1; export Y='a b'; arr=(p 'q r'); declare -A "
      "m=([k]=\"v\nw\");"
      "declare -r fixed=5; g() { echo g:$x; }; export -f g; alias ll='echo listed'; shopt -s "
      "extglob; set -u;"
      "set -- first 'sec ond'; trap 'echo caught' USR1; umask 077; cd ..; cd d; (exit 9)");
  Fork fork = fork_of(*environment_);
  EXPECT_EQ(fork.kind, ForkKind::value);
  const std::string probe =
      "echo $? $x \"$Y\" \"${arr[1]}\" \"${m[k]}\" $fixed \"$2\" $OLDPWD; g; ll; bash -c g; pwd; "
      "cat f;"
      "umask; trap -p USR1; shopt extglob; echo ${unset_one} ";
  const std::string expected =
      "9 1 a b q r v\nw 5 sec ond /app\ng:1\nlisted\ng:\n/app/d\none\n0077\ntrap -- 'echo caught' "
      "SIGUSR1\n"
      "extglob        \ton\nbash: unset_one: unbound variable\n";
  EXPECT_EQ(output_of(*environment_, probe), expected);
  EXPECT_EQ(output_of(*fork.child, probe.substr(0)), expected);

  run(*environment_, "echo parent > f; x=2; rm -f ../gone; cd /");
  run(*fork.child, "echo child > f; x=3; touch new");
  EXPECT_EQ(output_of(*environment_, "echo $x; cat /app/d/f; ls /app/d"), "2\nparent\nf\n");
  EXPECT_EQ(output_of(*fork.child, "echo $x; cat f; ls"), "3\nchild\nf\nnew\n");
}

TEST_P(Conformance, ForksOfForksSeeDeletionsAndReplacements) {
  run(*environment_, "mkdir d; touch d/a d/b; echo 0 > n");
  std::vector<EnvironmentPtr> children;
  Environment* current = environment_.get();
  for (int depth = 1; depth <= 5; ++depth) {
    children.push_back(fork_of(*current).child);
    current = children.back().get();
    run(*current, "echo " + std::to_string(depth) + " >> n; rm -rf d; mkdir d; touch d/only" +
                      std::to_string(depth));
  }
  EXPECT_EQ(output_of(*current, "cat n; ls d"), "0\n1\n2\n3\n4\n5\nonly5\n");
  EXPECT_EQ(output_of(*children[1], "cat n; ls d"), "0\n1\n2\nonly2\n");
  EXPECT_EQ(output_of(*environment_, "cat n; ls d"), "0\na\nb\n");
  // A parent may end before its children.
  environment_.reset();
  children.erase(children.begin(), children.end() - 1);
  EXPECT_EQ(output_of(*children.back(), "tail -1 n"), "5\n");
}

TEST_P(Conformance, AForkWithoutWritesLeavesTheParentItself) {
  run(*environment_, "x=1");
  std::string pid = output_of(*environment_, "echo $BASHPID $x");
  Fork fork = fork_of(*environment_);
  EXPECT_EQ(output_of(*environment_, "echo $BASHPID $x"), pid);
  EXPECT_EQ(output_of(*fork.child, "echo $x; x=2; touch f"), "1\n");
  EXPECT_EQ(output_of(*environment_, "echo $x; ls"), "1\n");
}

TEST_P(Conformance, ForkIsRefusedWithAReasonAndWithoutHarm) {
  run(*environment_, "sleep 1000 & echo kept > f");
  try {
    fork_of(*environment_);
    FAIL() << "a background process cannot be carried over by value";
  } catch (const common::NotForkable& e) {
    EXPECT_THAT(e.what(), HasSubstr("1 other process"));
  }
  EXPECT_EQ(output_of(*environment_, "cat f; jobs -r | wc -l; kill %1; exec 7>g"), "kept\n1\n");
  EXPECT_THROW(fork_of(*environment_), common::NotForkable);
  EXPECT_EQ(output_of(*environment_, "echo x >&7; exec 7>&-; cat g"), "x\n");
  EXPECT_NO_THROW(fork_of(*environment_));
  run(*environment_, "exit");
  EXPECT_THROW(fork_of(*environment_), common::NotForkable);
}

TEST_P(Conformance, ASnapshotOpensInAnotherBackend) {
  std::filesystem::path files = directory_.path() / "files";
  write_host_file(files / "given", "given\n", 0640);
  write_host_file(files / "removed", "removed\n", 0644);
  EnvironmentSpec spec;
  spec.files = files;
  auto environment = create(spec);
  run(*environment,
      "x='1 2'; echo made > made; rm removed; mkdir -p a/b; ln -s ../made a/link; chmod 4710 "
      "given");
  fork_of(*environment);
  run(*environment, "echo more > a/b/more; rm -rf a/b; mkdir a/b; cd a; (exit 3)");
  SnapshotId id = snapshot_of(*environment);
  EXPECT_EQ(snapshot_of(*environment), id) << "the same state has the same name";
  EXPECT_EQ(output_of(*environment, "pwd"), "/app/a\n") << "the environment goes on";
  environment.reset();
  environment_.reset();
  std::filesystem::remove_all(files);
  SandboxOptions options = this->options();
  options.snapshot_dir = directory_.path() / "snapshots";
  backend_.reset();
  backend_ = make_sandbox_backend(options);
  auto opened = open(id);
  EXPECT_EQ(
      output_of(*opened, "echo $? $x; pwd; cat link; ls -A b /app; stat -c '%a %U' /app/given"),
      "3 1 2\n/app/a\nmade\n/app:\na\ngiven\nmade\n\nb:\n4710 agent\n");
  EXPECT_EQ(snapshot_of(*open(id)), id);
  EXPECT_EQ(output_of(*fork_of(*opened).child, "pwd; cat ../given"), "/app/a\ngiven\n");
  EXPECT_THROW(open(SnapshotId{std::string(64, '0')}), common::StoreError);
  EXPECT_THROW(open(SnapshotId{"../x"}), common::StoreError);
}

TEST_P(Conformance, ADamagedSnapshotIsRefused) {
  run(*environment_, "echo text > f");
  SnapshotId id = snapshot_of(*environment_);
  auto place = directory_.path() / "snapshots" / (id.hex + ".json");
  std::string meta = common::read_file(place);
  meta.replace(meta.find("/app"), 4, "/tmp");
  common::write_file_atomically(place, meta);
  EXPECT_THROW(open(id), common::StoreError);
}

TEST_P(Conformance, ExecRunsBesideTheShell) {
  run(*environment_, "x=1; cd /tmp; echo mine > /app/f");
  Observation seen =
      exec(*environment_, {"sh", "-c", "pwd; echo \"[$x]\" $HOME; id -un; cat f; exit 4"}, false);
  EXPECT_EQ(seen.output, "/app\n[] /home/agent\nagent\nmine\n");
  EXPECT_EQ(seen.exit_code, 4);
  EXPECT_EQ(exec(*environment_, {"/no/such/program"}, false).exit_code, 127);
  EXPECT_EQ(as_root(*environment_, "touch /etc/made; echo $HOME").output, "/root\n");
  seen = exec(*environment_, {"sleep", "1000"}, false, 0.1);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_EQ(output_of(*environment_, "pwd"), "/tmp\n");
}

TEST_P(Conformance, PutAndReadFiles) {
  put_file(*environment_, "/opt/a/b/tool", "#!/bin/sh\necho tool\n", 0755);
  EXPECT_EQ(output_of(*environment_, "/opt/a/b/tool"), "tool\n");
  put_file(*environment_, "/opt/a/b/tool", "short");
  EXPECT_EQ(environment_->read_file("/opt/a/b/tool", 100), "short");
  EXPECT_EQ(environment_->read_file("/opt/a/b/tool", 3), "sho");
  EXPECT_EQ(environment_->read_file("/opt/a/b/none", 3), std::nullopt);
  run(*environment_, "echo linked > t; ln -s /app/t l; ln -s /app d; mkfifo p");
  EXPECT_EQ(environment_->read_file("/app/l", 100), "linked\n");
  EXPECT_EQ(environment_->read_file("/app/d/t", 100), "linked\n");
  EXPECT_EQ(environment_->read_file("/app/p", 100), std::nullopt);
  EXPECT_EQ(environment_->read_file("/app", 100), std::nullopt);
  EXPECT_THROW(put_file(*environment_, "relative", ""), common::SandboxError);
}

TEST_P(Conformance, VerifyKeepsToHarborsRules) {
  const std::string head = "#!/bin/bash\n";
  auto judge = [&](const std::string& script) { return verify_with(*environment_, head + script); };
  run(*environment_, "echo done > result");
  Verdict seen = judge(
      "echo seen: $(cat result) $(pwd) $(id -u); echo 0.25 > /logs/verifier/reward.txt; exit 1");
  EXPECT_EQ(seen.reward, 0.25);
  EXPECT_EQ(seen.failure, "");
  EXPECT_THAT(seen.output, HasSubstr("seen: done /app "));
  EXPECT_EQ(judge("echo '{\"reward\": 0.75, \"other\": 1}' > /logs/verifier/reward.json;"
                  "echo 0 > /logs/verifier/reward.txt")
                .reward,
            0.75);
  EXPECT_EQ(judge("echo '{\"score\": 1}' > /logs/verifier/reward.json").reward, 1.0);
  auto failure = [&](const std::string& script) {
    Verdict verdict = judge(script);
    EXPECT_FALSE(verdict.reward.has_value()) << script;
    return verdict.failure;
  };
  EXPECT_EQ(failure("true"), "RewardFileNotFoundError")
      << "what an earlier verifier wrote does not count";
  EXPECT_EQ(failure("echo > /logs/verifier/reward.txt"), "RewardFileEmptyError");
  EXPECT_EQ(failure("echo good > /logs/verifier/reward.txt"), "VerifierOutputParseError");
  EXPECT_EQ(failure("echo nan > /logs/verifier/reward.txt"), "VerifierOutputParseError");
  EXPECT_EQ(failure("echo 1 2 > /logs/verifier/reward.txt"), "VerifierOutputParseError");
  EXPECT_EQ(failure("echo '{\"a\": 1, \"b\": 2}' > /logs/verifier/reward.json"),
            "VerifierOutputParseError");
  EXPECT_EQ(failure("echo '{' > /logs/verifier/reward.json"), "VerifierOutputParseError");
  seen = verify_with(*environment_, head + "echo 1 > /logs/verifier/reward.txt; sleep 1000", 0.3);
  EXPECT_EQ(seen.failure, "VerifierTimeoutError");
  EXPECT_FALSE(seen.reward.has_value());
  VerifierSpec none;
  none.tests = directory_.path() / "none";
  EXPECT_THROW(
      common::await<Verdict>([&](auto done) { environment_->verify(none, std::move(done)); }),
      common::TaskError);
}

TEST_P(Conformance, DestroyingEndsWhatIsInProgress) {
  std::promise<bool> cancelled;
  environment_->run("sleep 1000", Deadline::max(), [&](common::Result<Observation> r) {
    try {
      std::move(r).get();
      cancelled.set_value(false);
    } catch (const common::Cancelled&) {
      cancelled.set_value(true);
    }
  });
  environment_.reset();
  EXPECT_TRUE(cancelled.get_future().get());
  EXPECT_EQ(backend_->live_environments(), 0u);
}

TEST_P(Conformance, ManyEnvironmentsAtOnce) {
  constexpr int kCount = 24;
  std::vector<std::thread> threads;
  std::vector<std::string> seen(kCount);
  for (int i = 0; i < kCount; ++i)
    threads.emplace_back([&, i] {
      auto environment = create();
      for (int k = 0; k < 3; ++k) run(*environment, "echo " + std::to_string(i) + " >> mine");
      seen[size_t(i)] = output_of(*fork_of(*environment).child, "uniq mine; wc -l < mine");
    });
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(seen[size_t(i)], std::to_string(i) + "\n3\n");
}

INSTANTIATE_TEST_SUITE_P(Backends, Conformance,
                         ::testing::Values(Kind::sandbox, Kind::sandbox_disk_upper),
                         [](const auto& info) {
                           return std::string(info.param == Kind::sandbox ? "sandbox"
                                                                          : "sandbox_disk_upper");
                         });

}  // namespace
}  // namespace espalier::envs::testing
