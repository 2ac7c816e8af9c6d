// What every environment promises (envs/environment.h): the session and its commands.
#include "conformance.h"

#include <future>
#include <thread>

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;

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

}  // namespace
}  // namespace espalier::envs::testing
