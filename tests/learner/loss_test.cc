#include "learner/loss.h"

#include <ATen/ops/exp.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/rng.h"

namespace espalier::learner {
namespace {

using ::testing::HasSubstr;

at::Tensor column(const std::vector<double>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble));
}

/// Random edges, each with the advantages of the leaves below it.
struct Edges {
  std::vector<double> now, old, rollout, s_plus, s_minus, entropy, share, weight, scale;
  std::vector<std::vector<double>> leaves;

  explicit Edges(uint64_t seed, int count = 40) {
    common::Rng rng(common::derive_key(seed, "test", "edges"));
    for (int i = 0; i < count; ++i) {
      now.push_back(-2.0 + 0.6 * rng.normal());
      old.push_back(-2.0 + 0.6 * rng.normal());
      rollout.push_back(old.back() + 0.8 * rng.normal());
      double plus = 0, minus = 0;
      leaves.emplace_back();
      for (int64_t leaf = rng.range(1, 4); leaf > 0; --leaf) {
        const double advantage = rng.normal();
        leaves.back().push_back(advantage);
        (advantage > 0 ? plus : minus) += advantage;
      }
      s_plus.push_back(plus);
      s_minus.push_back(minus);
      entropy.push_back(rng.uniform());
      share.push_back(0.25 * static_cast<double>(rng.range(1, 4)));
      weight.push_back(rng.uniform());
      scale.push_back(rng.uniform());
    }
  }

  LossInput input(const std::vector<double>& log_probs) const {
    LossInput input;
    input.log_probs = column(log_probs);
    input.old_log_probs = column(old);
    input.rollout_log_probs = column(rollout);
    input.s_plus = column(s_plus);
    input.s_minus = column(s_minus);
    input.entropies = column(entropy);
    input.share = column(share);
    input.weight = column(weight);
    input.scale = column(scale);
    return input;
  }
};

common::LearnerConfig config_of(const std::string& loss) {
  common::LearnerConfig config;
  config.loss = loss;
  config.clip_ratio_low = 0.2;
  config.clip_ratio_high = 0.28;
  config.clip_ratio_c = 1.7;
  config.rollout_is_threshold = 1.5;
  config.entropy_coeff = 0.03;
  return config;
}

/// −Σ_edges w · scale · Σ_leaves min(r·A, clip(r)·A), dual-clipped where asked, minus the bonus.
double per_leaf_reference(const Edges& edges, const common::LearnerConfig& config) {
  double loss = 0;
  for (size_t e = 0; e < edges.now.size(); ++e) {
    const double r = std::exp(edges.now[e] - edges.old[e]);
    const double clipped = std::clamp(r, 1 - config.clip_ratio_low, 1 + config.clip_ratio_high);
    double sum = 0;
    for (double a : edges.leaves[e]) {
      double term = std::min(r * a, clipped * a);
      if (config.loss == "ppo_clip" && a < 0) term = std::max(term, config.clip_ratio_c * a);
      sum += term;
    }
    const double w =
        std::min(std::exp(edges.old[e] - edges.rollout[e]), config.rollout_is_threshold);
    loss -= w * edges.scale[e] * sum;
    loss -= config.entropy_coeff * edges.entropy[e] * edges.weight[e] * edges.scale[e];
  }
  return loss;
}

class ClippedLoss : public ::testing::TestWithParam<std::string> {};

TEST_P(ClippedLoss, EqualsTheSumOverLeaves) {
  const common::LearnerConfig config = config_of(GetParam());
  const auto loss = make_loss(config);
  EXPECT_EQ(loss->name(), GetParam());
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Edges edges(seed);
    const double expected = per_leaf_reference(edges, config);
    EXPECT_NEAR(loss->compute(edges.input(edges.now)).loss.item<double>(), expected,
                1e-12 * std::abs(expected));
  }
}

TEST_P(ClippedLoss, GradientAgreesWithFiniteDifferences) {
  const auto loss = make_loss(config_of(GetParam()));
  const Edges edges(11);
  LossInput input = edges.input(edges.now);
  input.log_probs.requires_grad_(true);
  input.entropies.requires_grad_(true);
  loss->compute(input).loss.backward();
  constexpr double kStep = 1e-6;
  for (size_t e = 0; e < edges.now.size(); ++e) {
    std::vector<double> ahead = edges.now, behind = edges.now;
    ahead[e] += kStep;
    behind[e] -= kStep;
    const double slope = (loss->compute(edges.input(ahead)).loss.item<double>() -
                          loss->compute(edges.input(behind)).loss.item<double>()) /
                         (2 * kStep);
    const double gradient = input.log_probs.grad()[static_cast<int64_t>(e)].item<double>();
    EXPECT_NEAR(gradient, slope, 1e-7 * std::max(1.0, std::abs(slope))) << "edge " << e;
    EXPECT_NEAR(input.entropies.grad()[static_cast<int64_t>(e)].item<double>(),
                -0.03 * edges.weight[e] * edges.scale[e], 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(Names, ClippedLoss, ::testing::Values("ppo_clip", "grpo"),
                         [](const auto& info) { return info.param; });

TEST(Loss, OnTheFirstUpdateTheGradientIsThePolicyGradient) {
  common::LearnerConfig config = config_of("ppo_clip");
  config.rollout_is_threshold = 0;
  config.entropy_coeff = 0;
  const Edges edges(4);
  LossInput input = edges.input(edges.now);
  input.log_probs.requires_grad_(true);
  input.old_log_probs = input.log_probs.detach();
  const LossOutput output = make_loss(config)->compute(input);
  output.loss.backward();
  const at::Tensor expected = -(input.s_plus + input.s_minus) * input.scale;
  EXPECT_LE((input.log_probs.grad() - expected).abs().max().item<double>(), 1e-14);
  EXPECT_EQ(output.sums.at("clipfrac"), 0.0);
  EXPECT_EQ(output.sums.at("kl"), 0.0);
}

TEST(Loss, SumsCountWhatWasClipped) {
  common::LearnerConfig config = config_of("ppo_clip");
  config.rollout_is_threshold = 0;
  LossInput input;
  const std::vector<double> ratios = {2.0, 1.2, 0.5, 2.0};
  std::vector<double> now;
  for (double ratio : ratios) now.push_back(std::log(ratio));
  input.log_probs = column(now);
  input.old_log_probs = at::zeros_like(input.log_probs);
  input.rollout_log_probs = input.old_log_probs;
  input.s_plus = column({1, 1, 1, 0});
  input.s_minus = column({0, -1, -1, -1});
  input.entropies = column({1, 1, 1, 1});
  input.share = column({1, 1, 0.5, 1});
  input.weight = input.share;
  input.scale = column({1, 1, 1, 1});
  const LossOutput output = make_loss(config)->compute(input);
  EXPECT_NEAR(output.sums.at("clipfrac"), 1.5, 1e-12);        // the first, and half of the third
  EXPECT_NEAR(output.sums.at("clipfrac_lower"), 1.0, 1e-12);  // the last: 2.0 > 1.7
  EXPECT_NEAR(output.sums.at("edges"), 3.5, 1e-12);
  EXPECT_NEAR(output.sums.at("entropy"), 3.5, 1e-12);
}

TEST(Loss, UnknownNamesAreRefused) {
  common::LearnerConfig config;
  config.loss = "ppo";
  try {
    make_loss(config);
    FAIL() << "an unknown loss was accepted";
  } catch (const common::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'ppo'"));
    for (const std::string& name : loss_names()) EXPECT_THAT(error.what(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace espalier::learner
