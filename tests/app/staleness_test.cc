// Training a step behind the rollouts: trainer.staleness_threshold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/mini_run.h"
#include "tree/store.h"

namespace espalier {
namespace {

using namespace test;
using ::testing::HasSubstr;

std::vector<std::string> ahead(std::vector<std::string> more = {}) {
  more.insert(more.end(), {"trainer.staleness_threshold=1", "deterministic=true", "seed=4",
                           "trainer.total_steps=5", "trainer.save_freq=3", "trainer.test_freq=0",
                           "eval.n=2", "eval.greedy=false"});
  return more;
}

TEST(Staleness, TreesAreAtMostOneVersionBehind) {
  const common::TempDir scratch;
  ASSERT_EQ(test::run(train(scratch.path(), ahead())).exit_code, 0);
  const fs::path run = scratch.path() / "mini";
  const std::vector<json> records = metrics(run);
  ASSERT_EQ(records.size(), 6u);
  const std::vector<double> expected = {0, 1, 1, 0, 1};  // a checkpoint stands after step 3
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_EQ(records[step + 1]["training/staleness/max"], expected[step]) << step;
    EXPECT_EQ(records[step + 1]["training/staleness/min"], expected[step]) << step;
    for (const tree::Tree& tree : tree::read_trees(tree::shard_path(run, step)))
      for (const tree::Node& node : tree.nodes)
        EXPECT_EQ(node.policy_version, step - static_cast<uint64_t>(expected[step]));
    const double difference = records[step + 1]["training/rollout_probs_diff_mean"];
    if (expected[step] == 0) {
      EXPECT_LT(difference, 1e-5);
    } else {
      EXPECT_GT(difference, 1e-5) << "the weights have moved on since";
    }
    EXPECT_TRUE(records[step + 1].contains("training/rollout_actor_probs_pearson_corr"));
  }
}

TEST(Staleness, EqualRunsAreEqualWhateverTheTimingAlsoWhenKilled) {
  const common::TempDir a, b, killed;
  ASSERT_EQ(test::run(train(a.path(), ahead())).exit_code, 0);
  ASSERT_EQ(test::run(train(b.path(), ahead({"env.inject_delay_ms=20"}))).exit_code, 0);
  expect_equal_runs(a.path() / "mini", b.path() / "mini");
  const fs::path run = killed.path() / "mini";
  interrupt(killed.path(), ahead(), run / "trees/step_000004.h5", SIGKILL);
  const Finished done = test::run(train(killed.path(), ahead({"--resume"})));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("Resuming after step 3"));
  expect_equal_runs(a.path() / "mini", run);
}

TEST(Staleness, ADifferenceBeyondTheThresholdIsWarnedOf) {
  const common::TempDir scratch;
  const Finished done =
      test::run(train(scratch.path(), ahead({"learner.rollout_probs_diff_threshold=0.00001"})));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("step 1: the probabilities of sampler and learner differ"));
  EXPECT_THAT(done.output, HasSubstr("correlation"));
}

TEST(Staleness, CtrlCAheadLosesNoStep) {
  const common::TempDir scratch;
  const fs::path run = scratch.path() / "mini";
  const std::vector<std::string> options = {"trainer.staleness_threshold=1", "trainer.save_freq=0",
                                            "trainer.test_freq=0", "eval.n=0"};
  std::vector<std::string> first = options;
  first.insert(first.end(), {"trainer.total_steps=200", "env.inject_delay_ms=30"});
  const Finished stopped = interrupt(scratch.path(), first, run / "trees/step_000001.h5", SIGINT);
  EXPECT_EQ(stopped.exit_code, 130) << stopped.output;
  const size_t records = metrics(run).size();
  std::vector<std::string> resumed = options;
  resumed.insert(resumed.end(), {"--resume", "env.inject_delay_ms=0",
                                 "trainer.total_steps=" + std::to_string(records)});
  const Finished done = test::run(train(scratch.path(), resumed));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  expect_steps(run, records + 1);
}

}  // namespace
}  // namespace espalier
