// Losses and gradients that are not finite: the step is skipped and kept, and too many stop a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "app/mini_run.h"
#include "common/error.h"
#include "tree/store.h"

namespace espalier {
namespace {

using namespace test;
using ::testing::HasSubstr;

/// Makes the stored trees of a run's step give a loss that is no number.
void poison(const fs::path& run, uint64_t step) {
  const fs::path shard = tree::shard_path(run, step);
  std::vector<tree::Tree> trees = tree::read_trees(shard);
  for (tree::Tree& tree : trees)
    for (tree::Node& node : tree.nodes)
      for (float& log_prob : node.log_probs) log_prob = std::numeric_limits<float>::quiet_NaN();
  tree::write_trees(shard, trees);
}

class Guard : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(test::run(train(scratch_.path(), {"eval.n=0", "sft.episodes=0"})).exit_code, 0);
  }
  Finished train_on_stored(std::vector<std::string> more = {}) {
    more.insert(more.end(), {"name=offline", "eval.n=0", "sft.episodes=0", "trainer.keep_last=9",
                             "data.trees=" + stored().string()});
    return test::run(train(scratch_.path(), more));
  }
  fs::path stored() const { return scratch_.path() / "mini"; }
  fs::path offline() const { return scratch_.path() / "offline"; }
  std::string weights_after(uint64_t step) const {
    return common::read_file(offline() / "checkpoints" / ("step_00000" + std::to_string(step)) /
                             "model.safetensors");
  }

  common::TempDir scratch_;
};

TEST_F(Guard, ABadStepIsSkippedAndSavedForReplay) {
  poison(stored(), 1);
  const Finished done = train_on_stored();
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("step 1: loss or gradient is not finite"));
  expect_steps(offline(), 4);
  const std::vector<json> records = metrics(offline());
  EXPECT_EQ(records[1]["actor/skipped_updates"], 0);
  EXPECT_EQ(records[2]["actor/skipped_updates"], 1);
  EXPECT_EQ(records[3]["actor/skipped_updates"], 0);
  EXPECT_TRUE(weights_after(1) == weights_after(2)) << "nothing was learnt from it";
  EXPECT_FALSE(weights_after(2) == weights_after(3)) << "training goes on";
  EXPECT_THAT(common::read_file(offline() / "summary.json"), HasSubstr("1 step(s) were skipped"));

  const fs::path bad = offline() / "bad_steps/step_000001";
  const Finished log = test::run(test::espalier({"trace", "log", bad.string()}));
  EXPECT_EQ(log.exit_code, 0) << log.output;
  EXPECT_THAT(log.output, HasSubstr("nursery:"));
  const Finished again = test::run(test::espalier({"train", (bad / "config.yaml").string()}));
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_THAT(again.output, HasSubstr("not finite")) << "the same weights, the same trees";
}

TEST_F(Guard, TooManyBadStepsStopTheRunAndNameTheFirstParameter) {
  for (uint64_t step = 0; step < 3; ++step) poison(stored(), step);
  const Finished done = train_on_stored({"learner.max_bad_steps=2"});
  EXPECT_EQ(done.exit_code, common::kExitFailure) << done.output;
  EXPECT_THAT(done.output, HasSubstr("2 step(s) in a row"));
  EXPECT_THAT(done.output, HasSubstr("first 'model."));
  EXPECT_TRUE(fs::exists(offline() / "bad_steps/step_000000/trees"));
  EXPECT_TRUE(fs::exists(offline() / "bad_steps/step_000001/trees"));
  expect_steps(offline(), 3);  // the records of the steps that were skipped are there
}

TEST_F(Guard, BadStepsThatAreNotInARowDoNotStopIt) {
  poison(stored(), 0);
  poison(stored(), 2);
  EXPECT_EQ(train_on_stored({"learner.max_bad_steps=2"}).exit_code, 0);
}

}  // namespace
}  // namespace espalier
