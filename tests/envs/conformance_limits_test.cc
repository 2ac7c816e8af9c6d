// What every environment promises of limits, and of commands that mean harm: each has an outcome,
// and the environment, or at least its backend, goes on.
#include "conformance.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;

TEST_P(Conformance, AGigabyteOfOutputIsBounded) {
  Observation seen = run(*environment_, "head -c 1G /dev/zero", 300);
  EXPECT_EQ(seen.output_bytes, size_t{1} << 30);
  EXPECT_LT(seen.output.size(), Limits{}.output_bytes + 100);
  EXPECT_EQ(seen.exit_code, 0);
  seen = run(*environment_, "yes", 0.3);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_LT(seen.output.size(), Limits{}.output_bytes + 100);
}

TEST_P(Conformance, KillingEverythingEndsTheSessionAtMost) {
  run(*environment_, "kill -9 -1");
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
  Observation seen = run(*environment_, "bash -c 'kill -9 -1'");
  EXPECT_TRUE(seen.shell_exited);
  EXPECT_EQ(seen.exit_code, 137);
  EXPECT_EQ(output_of(*create(), "echo new"), "new\n");
}

TEST_P(Conformance, IgnoredSignalsDoNotHoldUpADeadline) {
  Observation seen =
      run(*environment_, "trap '' TERM INT HUP QUIT; while :; do sleep 1000; done", 0.2);
  EXPECT_TRUE(seen.timed_out);
  auto environment = create();
  seen = run(*environment, "bash -c 'trap \"\" TERM INT HUP; while :; do :; done'", 0.2);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_FALSE(seen.shell_exited);
  EXPECT_EQ(output_of(*environment, "echo on"), "on\n");
}

TEST_P(Conformance, ADaemonDoesNotOutliveItsEnvironment) {
  const std::string daemon = "sleep 98765." + std::to_string(getpid());
  Observation seen = run(*environment_, "(setsid sh -c '(trap \"\" HUP TERM INT; exec " + daemon +
                                            ") & ' &) ; echo started");
  EXPECT_EQ(seen.output, "started\n");
  EXPECT_EQ(output_of(*environment_,
                      "for i in 1 2 3 4 5 6 7 8 9; do pgrep sleep >/dev/null && "
                      "break; sleep 0.1; done; pgrep -c sleep"),
            "1\n");
  environment_.reset();
  EXPECT_TRUE(gone_from_host(daemon));
}

TEST_P(Conformance, ACommandMayCloseItsStandardStreams) {
  Observation seen =
      run(*environment_, "bash -c 'exec <&- >&- 2>&-; echo lost; sleep 0.1; exit 5'");
  EXPECT_EQ(seen.output, "");
  EXPECT_EQ(seen.exit_code, 5);
  run(*environment_, "exec <&- >&- 2>&-");
  EXPECT_EQ(run(*environment_, "(exit 6)").exit_code, 6);
}

TEST_P(Conformance, ACommandLineOfFourMegabytes) {
  Observation seen = run(
      *environment_, "x=" + std::string(size_t{4} << 20, 'x') + "; /bin/echo $x; echo $? ${#x}");
  EXPECT_THAT(seen.output, HasSubstr("Argument list too long"));
  EXPECT_THAT(seen.output, HasSubstr("\n126 4194304\n"));
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
}

TEST_P(Conformance, CommandsThatAreNotText) {
  run(*environment_, std::string("echo a\0b", 8));
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
  run(*environment_, "\xff\xfe\xc3\x28\x1b[2J");
  run(*environment_, "");
  run(*environment_, "\n\n\r\n");
  EXPECT_EQ(output_of(*environment_, "echo on"), "on\n");
}

TEST_P(Conformance, EndlessRecursionEndsTheSessionAtMost) {
  Observation seen = run(*environment_, "f() { f; }; f", 1);
  EXPECT_TRUE(seen.timed_out || seen.shell_exited);
  EXPECT_EQ(output_of(*create(), "echo new"), "new\n");
}

TEST_P(Conformance, AFullDiskIsAnErrorInside) {
  if (!lacks("disk_limit").empty()) GTEST_SKIP() << lacks("disk_limit");
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

TEST_P(Conformance, AForkBombMeetsItsLimit) {
  if (!lacks("pids_limit").empty()) GTEST_SKIP() << lacks("pids_limit");
  EnvironmentSpec spec;
  spec.limits.pids = 24;
  auto environment = create(spec);
  Observation seen = run(*environment, "bash -c 'for i in $(seq 200); do sleep 1000 & done'", 2);
  EXPECT_THAT(seen.output, HasSubstr("Resource temporarily unavailable"));
  environment = create(spec);
  run(*environment, "b() { b | b & }; b; sleep 1000", 0.5);
  environment.reset();
  EXPECT_EQ(output_of(*environment_, "echo unharmed"), "unharmed\n");
}

TEST_P(Conformance, AMemoryBombMeetsItsLimit) {
  if (!lacks("memory_limit").empty()) GTEST_SKIP() << lacks("memory_limit");
  EnvironmentSpec spec;
  spec.limits.memory_bytes = 64 << 20;
  spec.limits.disk_bytes = 16 << 20;
  auto environment = create(spec);
  // `tail` keeps what has no newline.
  Observation seen = run(*environment, "head -c 400M /dev/zero | tail -n 1 | wc -c");
  EXPECT_NE(seen.output, "419430400\n");
  EXPECT_FALSE(seen.shell_exited);
  EXPECT_EQ(output_of(*environment, "echo still"), "still\n");
  // The shell itself is the bomb.
  seen = run(*environment, "x=$(head -c 400M /dev/zero | tr '\\0' x); echo ${#x}");
  EXPECT_NE(seen.output, "419430400\n");
  EXPECT_NE(seen.exit_code, 0);
  environment.reset();
  EXPECT_EQ(output_of(*environment_, "echo unharmed"), "unharmed\n");
}

TEST_P(Conformance, MoreMemoryThanThereIsIsRefusedBeforeTheStart) {
  EnvironmentSpec spec;
  spec.limits.memory_bytes = size_t{1} << 50;
  try {
    create(spec);
    FAIL() << "no machine has a pebibyte";
  } catch (const common::TaskError& error) {
    EXPECT_THAT(error.what(), HasSubstr("1048576.0 GiB"));
    EXPECT_THAT(error.what(), HasSubstr("this machine has"));
  }
  EXPECT_EQ(output_of(*create(), "echo on"), "on\n");
}

}  // namespace
}  // namespace espalier::envs::testing
