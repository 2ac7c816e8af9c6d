// What every environment promises of files, processes beside the shell, and verdicts.
#include "conformance.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;

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
  EXPECT_EQ(output_of(*environment, "pwd; cat link; dir/tool; echo \"$GREETING\"; id -u"),
            "/srv/place\nhello\nran\ntwo words\n1000\n");
  Observation seen = run(*environment, "cat locked");
  EXPECT_EQ(seen.output, "cat: locked: Permission denied\n");
  EXPECT_EQ(seen.exit_code, 1);
  EXPECT_EQ(output_of(*environment, "chmod +r locked; cat locked; stat -c '%a %u' plain dir/tool"),
            "secret\n644 1000\n755 1000\n");
  // Environments of one task share its files, not what they do to them.
  auto other = create(spec);
  EXPECT_EQ(output_of(*other, "rm plain; ls"), "dir\nlink\nlocked\n");
  EXPECT_EQ(output_of(*environment, "cat plain"), "hello\n");
}

TEST_P(Conformance, ExecRunsBesideTheShell) {
  run(*environment_, "x=1; cd /tmp; echo mine > /app/f");
  Observation seen =
      exec(*environment_, {"sh", "-c", "pwd; echo \"[$x]\" $HOME; id -u; cat f; exit 4"}, false);
  EXPECT_EQ(seen.output, "/app\n[] /home/agent\n1000\nmine\n");
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

}  // namespace
}  // namespace espalier::envs::testing
