#include "learner/bench.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "learner/peak_memory.h"
#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

TEST(Bench, CountsTokensAndBytesOfBothPackings) {
  LearnerBench bench;
  bench.shape = {.trees = 1, .roots = 2, .branches = 2, .turns = 4, .prompt_tokens = 64};
  bench.repetitions = 1;
  const LearnerFigures figures = bench_learner(test::small_model(at::kFloat, false), bench);
  // prompt + per root: a trunk of 2 turns and the observation after it, then 2 branches.
  const uint64_t trunk = 24 + 48 + 24 + 48, branch = 24 + 48 + 24;
  EXPECT_EQ(figures.tokens_packed, 64 + 2 * (trunk + 2 * branch));
  EXPECT_EQ(figures.tokens_linear, 4 * (64 + trunk + branch));
  EXPECT_GT(figures.packed_ms, 0);
  EXPECT_GT(figures.linear_ms, 0);
  EXPECT_GT(figures.packed_peak_bytes, 1000);
  EXPECT_LT(figures.packed_peak_bytes, figures.linear_peak_bytes);
  bench.shape.roots = 0;
  EXPECT_THROW(bench_learner(test::small_model(at::kFloat, false), bench), common::ConfigError);
}

TEST(Bench, AnUnbranchedBatchHasThePlainStepsTokens) {
  LearnerBench bench;
  bench.shape = {.trees = 1, .roots = 3, .branches = 2, .turns = 2, .prompt_tokens = 10};
  bench.repetitions = 1;
  const UnbranchedFigures figures = bench_unbranched(test::small_model(at::kFloat, false), bench);
  EXPECT_EQ(figures.tokens, 3u * (10 + 24 + 48 + 24));
  EXPECT_GT(figures.packed_ms, 0);
  EXPECT_GT(figures.dense_ms, 0);
}

TEST(PeakMemory, IsTheMostAliveAtOnce) {
  const auto megabyte = [] { return at::zeros({1 << 18}, at::TensorOptions().dtype(at::kFloat)); };
  const int64_t peak = peak_bytes([&] {
    { const at::Tensor a = megabyte(), b = megabyte(); }
    const at::Tensor c = megabyte();
  });
  EXPECT_EQ(peak, 2 << 20);
}

}  // namespace
}  // namespace espalier::learner
