// Whole runs in miniature: files a run leaves, determinism, Ctrl-C, kill -9 and --resume.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/mini_run.h"
#include "common/error.h"

namespace espalier {
namespace {

using namespace test;
using ::testing::HasSubstr;

TEST(Train, LeavesEveryFileOfARun) {
  const common::TempDir scratch;
  const Finished done = test::run(train(scratch.path(), {}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const fs::path run = scratch.path() / "mini";
  for (const char* name : {"config.yaml", "metrics.jsonl", "tb", "journal", "trees/step_000000.h5",
                           "checkpoints", "summary.json", "report.html", "espalier.log"}) {
    EXPECT_TRUE(fs::exists(run / name)) << name;
  }
  const json summary = json::parse(common::read_file(run / "summary.json"));
  for (const char* when : {"before", "after"}) {
    for (const char* figure : {"mean", "se", "n", "greedy_mean"})
      EXPECT_TRUE(summary["eval"][when].contains(figure)) << when << figure;
  }
  for (const char* unit : {"generated_tokens", "prefill_tokens", "env_steps", "forks", "leaves"}) {
    EXPECT_TRUE(summary["budget"].contains(unit)) << unit;
  }
  for (const char* phase : {"setup", "sft", "rollout", "train", "eval", "total"})
    EXPECT_GT(summary["wall_s"][phase].get<double>(), 0) << phase;
  EXPECT_EQ(metrics(run).size(), 4u);  // before training, and one a step
  EXPECT_THAT(done.output, HasSubstr("success before"));
  EXPECT_THAT(done.output, HasSubstr("report.html"));

  const Finished log = test::run(test::espalier({"trace", "log", run.string(), "--tree", "0"}));
  EXPECT_EQ(log.exit_code, 0) << log.output;
  EXPECT_THAT(log.output, HasSubstr("nursery:"));
  const std::string checkpoint = (run / "checkpoints/step_000003").string();
  const Finished eval =
      test::run(test::espalier({"eval", checkpoint, "-n", "4", "-k", "2", "--json"}));
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  EXPECT_THAT(eval.output, HasSubstr("pass_at_k"));

  // A second run of the same name overwrites nothing.
  const Finished again = test::run(train(scratch.path(), {"sft.steps=1", "trainer.total_steps=1"}));
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_TRUE(fs::exists(scratch.path() / "mini-2/summary.json"));
}

TEST(Train, SameSeedSameTreesMetricsAndWeightsWhateverTheTiming) {
  const common::TempDir a, b, c;
  const std::vector<std::string> seeded = {"deterministic=true", "seed=5"};
  std::vector<std::string> delayed = seeded;
  delayed.push_back("env.inject_delay_ms=20");
  ASSERT_EQ(test::run(train(a.path(), seeded)).exit_code, 0);
  ASSERT_EQ(test::run(train(b.path(), seeded)).exit_code, 0);
  ASSERT_EQ(test::run(train(c.path(), delayed)).exit_code, 0);
  expect_equal_runs(a.path() / "mini", b.path() / "mini");
  expect_equal_runs(a.path() / "mini", c.path() / "mini");
}

TEST(Train, StopsAtItsBudget) {
  const common::TempDir scratch;
  const Finished done =
      test::run(train(scratch.path(), {"budget.limit=150", "trainer.total_steps=50"}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const json summary = json::parse(common::read_file(scratch.path() / "mini/summary.json"));
  const double spent = summary["budget"]["generated_tokens"];
  EXPECT_GE(spent, 150);
  EXPECT_LT(spent, 150 + 16 * 40);  // less than one action a live episode
  EXPECT_THAT(done.output, HasSubstr("150 generated_tokens, beyond it by"));
}

TEST(Train, AnUpdateDoesNotGoBeyondABudgetOfFlops) {
  const common::TempDir scratch;
  const Finished done = test::run(
      train(scratch.path(), {"budget.unit=model_flops", "budget.limit=3e9",
                             "trainer.total_steps=50", "eval.n=0", "deterministic=true"}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const json summary = json::parse(common::read_file(scratch.path() / "mini/summary.json"));
  EXPECT_LT(summary["steps"], 50);
  const double used = summary["budget"]["model_flops"], limit = 3e9;
  EXPECT_EQ(summary["budget_limit"]["used"], used);
  EXPECT_EQ(summary["budget_limit"]["overshoot"], std::max(0.0, used - limit));
  // An action and what it is shown, of each live episode: rolled out once, trained on once.
  const double parameters = summary["model"]["parameters"], live = 2 * (3 + 4), action = 16 + 49,
               attention = 1.3;
  EXPECT_LT(used, limit + live * action * 8 * parameters * attention);
  EXPECT_GT(used, 0.7 * limit);
  // What the budget ended is not gone on with, unless it is raised.
  const Finished again = test::run(train(
      scratch.path(), {"--resume", "budget.limit=3e9", "trainer.total_steps=50", "eval.n=0"}));
  ASSERT_EQ(again.exit_code, 0) << again.output;
  expect_steps(scratch.path() / "mini", summary["steps"].get<size_t>() + 1);
}

TEST(Train, ResumesAfterAKillBitForBit) {
  const common::TempDir whole, killed;
  const std::vector<std::string> seeded = {"deterministic=true", "seed=6"};
  ASSERT_EQ(test::run(train(whole.path(), seeded)).exit_code, 0);
  const fs::path run = killed.path() / "mini";
  interrupt(killed.path(), seeded, run / "checkpoints/step_000001", SIGKILL);
  std::vector<std::string> resumed = seeded;
  resumed.emplace_back("--resume");
  const Finished done = test::run(train(killed.path(), resumed));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("Resuming"));
  expect_equal_runs(whole.path() / "mini", run);
}

TEST(Train, ResumeKeepsTheRunsOwnConfiguration) {
  const common::TempDir scratch;
  ASSERT_EQ(
      test::run(train(scratch.path(), {"seed=9", "trainer.total_steps=1", "eval.n=0"})).exit_code,
      0);
  ASSERT_EQ(test::run(train(scratch.path(), {"trainer.total_steps=1", "eval.n=0"})).exit_code, 0);
  const fs::path run = scratch.path() / "mini";  // not the newest, which is mini-2
  const Finished done = test::run(test::espalier(
      {"train", (run / "config.yaml").string(), "--resume", "trainer.total_steps=2"}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const json summary = json::parse(common::read_file(run / "summary.json"));
  EXPECT_EQ(summary["seed"], 9);
  EXPECT_EQ(summary["steps"], 2);
  expect_steps(run, 3);
  expect_steps(scratch.path() / "mini-2", 2);
}

TEST(Train, CtrlCInAnEvaluationLosesNoRecord) {
  const common::TempDir scratch;
  const fs::path run = scratch.path() / "mini";
  const std::vector<std::string> many = {"trainer.total_steps=2", "trainer.test_freq=1",
                                         "trainer.save_freq=0"};
  std::vector<std::string> slow = many;
  slow.emplace_back("env.inject_delay_ms=400");
  // The shard of a step is written before its evaluation, which the delays make long.
  const Finished stopped = interrupt(scratch.path(), slow, run / "trees/step_000000.h5", SIGINT);
  EXPECT_EQ(stopped.exit_code, common::kExitInterrupted) << stopped.output;
  std::vector<std::string> resumed = many;
  resumed.emplace_back("--resume");
  resumed.emplace_back("env.inject_delay_ms=0");
  const Finished done = test::run(train(scratch.path(), resumed));
  EXPECT_EQ(done.exit_code, 0) << done.output;
  expect_steps(run, 3);
  for (const json& record : metrics(run))
    EXPECT_TRUE(record.contains("val/success/mean")) << record;
}

TEST(Train, ResumesWithinTheWarmStartWithItsDemonstrations) {
  const common::TempDir scratch;
  const fs::path run = scratch.path() / "mini", stored = run / "trees/demonstrations.h5";
  interrupt(scratch.path(), {"sft.steps=1000"}, stored, SIGKILL);
  ASSERT_FALSE(fs::exists(run / "checkpoints/step_000000"));
  const auto written = fs::last_write_time(stored);
  const Finished done = test::run(train(scratch.path(), {"--resume", "sft.steps=4"}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_EQ(fs::last_write_time(stored), written);
  expect_steps(run, 4);
}

TEST(Train, OffTheStoredTreesOfARun) {
  const common::TempDir scratch;
  ASSERT_EQ(test::run(train(scratch.path(), {"eval.n=0", "sft.episodes=0"})).exit_code, 0);
  const Finished done = test::run(
      train(scratch.path(), {"eval.n=0", "sft.episodes=0", "trainer.total_steps=50", "name=offline",
                             "data.trees=" + (scratch.path() / "mini").string()}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  expect_steps(scratch.path() / "offline", 4);  // as many as are stored
}

TEST(Train, StepsAreReproducedFromTheirStoredBatchesBitForBit) {
  const common::TempDir scratch;
  const std::vector<std::string> options = {"eval.n=0", "deterministic=true", "seed=8",
                                            "trainer.total_steps=2"};
  ASSERT_EQ(test::run(train(scratch.path(), options)).exit_code, 0);
  const fs::path run = scratch.path() / "mini";
  const auto offline = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.end(), options.begin(), options.end());
    more.insert(more.end(), {"name=" + name, "data.trees=" + run.string()});
    const Finished done = test::run(train(scratch.path(), more));
    EXPECT_EQ(done.exit_code, 0) << done.output;
    return newest_weights(scratch.path() / name);
  };
  // Both steps from the beginning; both, and the second alone, from the run's own checkpoints.
  EXPECT_TRUE(newest_weights(run) == offline("whole", {}));
  EXPECT_TRUE(newest_weights(run) == offline("both", {"data.from_step=0"}));
  EXPECT_TRUE(newest_weights(run) == offline("second", {"data.from_step=1"}));
  const Finished none = test::run(
      train(scratch.path(), {"name=none", "data.trees=" + run.string(), "data.from_step=2"}));
  EXPECT_EQ(none.exit_code, common::kExitUsage) << none.output;
}

/// On a file system of 5 MB of its own, which is then made larger.
TEST(Train, AFullDiskStopsItWithAReasonAndItResumesWhenThereIsRoom) {
  const common::TempDir scratch;
  const std::string where = (scratch.path() / "disk").string();
  fs::create_directory(where);
  if (test::run({"unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", where}).exit_code != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  const auto words = [](const std::vector<std::string>& arguments) {
    std::string line;
    for (const std::string& word : arguments) line += "'" + word + "' ";
    return line;
  };
  const std::string command = words(train(where, {"eval.n=0", "sft.episodes=0"}));
  const Finished done = test::run(
      {"unshare", "-m", "sh", "-c",
       "mount -t tmpfs -o size=5m tmpfs " + where + " && " + command + "; echo code $?; " +
           "mount -o remount,size=200m " + where + " && " + command + " --resume; echo code $?; " +
           "grep -c step " + where + "/mini/metrics.jsonl; " + words({ESPALIER_BINARY}) +
           "trace verify " + where + "/mini; echo code $?"});
  for (const char* expected : {"No space left on device", "code 1\n", "Resuming after step",
                               "code 0\n4\n", "all as written", "go on with: espalier train"})
    EXPECT_THAT(done.output, HasSubstr(expected));
}

TEST(Train, CtrlCSavesAndSaysHowToGoOn) {
  const common::TempDir scratch;
  const fs::path run = scratch.path() / "mini";
  const Finished stopped = interrupt(scratch.path(), {"trainer.total_steps=200"},
                                     run / "checkpoints/step_000002", SIGINT);
  EXPECT_EQ(stopped.exit_code, common::kExitInterrupted) << stopped.output;
  EXPECT_THAT(stopped.output, HasSubstr("--resume"));
  const size_t steps = metrics(run).size();
  const Finished done = test::run(
      train(scratch.path(), {"trainer.total_steps=" + std::to_string(steps + 1), "--resume"}));
  EXPECT_EQ(done.exit_code, 0) << done.output;
  expect_steps(run, steps + 2);
}

}  // namespace
}  // namespace espalier
