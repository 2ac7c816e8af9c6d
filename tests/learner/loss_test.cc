#include "learner/loss.h"

#include <ATen/ops/exp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/rng.h"

namespace espalier::learner {

std::unique_ptr<Loss> make_hinge_pg(const common::LearnerConfig& config);

namespace {

using ::testing::HasSubstr;

at::Tensor column(const std::vector<double>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble));
}

at::Tensor index(const std::vector<int64_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

/// Random edges, each with the advantages of the leaves below it: edge e is on the paths
/// paths[e], where it counts leaves[e].
struct Edges {
  static constexpr int kPaths = 12;
  std::vector<double> now, old, rollout, reference, s_plus, s_minus, entropy, share, weight, scale;
  std::vector<std::vector<double>> leaves;
  std::vector<std::vector<int>> paths;

  explicit Edges(uint64_t seed, int count = 40) {
    common::Rng rng(common::derive_key(seed, "test", "edges"));
    for (int i = 0; i < count; ++i) {
      now.push_back(-2.0 + 0.6 * rng.normal());
      old.push_back(-2.0 + 0.6 * rng.normal());
      rollout.push_back(old.back() + 0.8 * rng.normal());
      reference.push_back(-2.0 + 0.6 * rng.normal());
      double plus = 0, minus = 0;
      leaves.emplace_back();
      paths.emplace_back();
      const int64_t first = rng.range(0, kPaths - 4), below = rng.range(1, 4);
      for (int64_t leaf = 0; leaf < below; ++leaf) {
        const double advantage = rng.normal();
        leaves.back().push_back(advantage);
        paths.back().push_back(static_cast<int>(first + leaf));
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

  LossPaths loss_paths() const {
    LossPaths result;
    std::vector<int64_t> edge, path;
    std::vector<double> credit, part, lengths(kPaths, 0.0);
    for (size_t e = 0; e < now.size(); ++e) {
      for (size_t l = 0; l < leaves[e].size(); ++l) {
        edge.push_back(static_cast<int64_t>(e));
        path.push_back(paths[e][l]);
        credit.push_back(leaves[e][l]);
        part.push_back(1.0 / static_cast<double>(leaves[e].size()));
        lengths[static_cast<size_t>(paths[e][l])] += 1;
      }
    }
    for (double& length : lengths) length = std::max(length, 1.0);
    result.count = kPaths;
    result.edge = index(edge);
    result.path = index(path);
    result.credit = column(credit);
    result.share = column(part);
    result.lengths = column(lengths);
    return result;
  }

  LossInput input(const std::vector<double>& log_probs) const {
    LossInput input;
    input.log_probs = column(log_probs);
    input.old_log_probs = column(old);
    input.rollout_log_probs = column(rollout);
    input.reference_log_probs = column(reference);
    input.s_plus = column(s_plus);
    input.s_minus = column(s_minus);
    input.entropies = column(entropy);
    input.share = column(share);
    input.weight = column(weight);
    input.scale = column(scale);
    input.paths = loss_paths();
    return input;
  }

  /// exp of the mean log-ratio along each path.
  std::vector<double> path_ratios(const std::vector<double>& log_probs) const {
    std::vector<double> sums(kPaths, 0.0), counts(kPaths, 0.0);
    for (size_t e = 0; e < now.size(); ++e) {
      for (int path : paths[e]) {
        sums[static_cast<size_t>(path)] += log_probs[e] - old[e];
        counts[static_cast<size_t>(path)] += 1;
      }
    }
    for (size_t p = 0; p < sums.size(); ++p) sums[p] = std::exp(sums[p] / std::max(counts[p], 1.0));
    return sums;
  }
};

common::LearnerConfig config_of(const std::string& loss) {
  common::LearnerConfig config;
  config.loss = loss;
  config.rollout_is_threshold = 1.5;
  config.entropy_coeff = 0.03;
  config.kl_loss_coef = 0.05;
  config.kl_loss_type = "k2";
  if (loss == "ppo_clip") config.clip_ratio_c = 1.7;
  if (loss == "cispo") config.clip_ratio_high = 0.5;
  if (loss == "gspo") config.clip_ratio_low = config.clip_ratio_high = 0.1;
  return config;
}

/// What the published losses use (asserted here, so that a change is noticed).
struct Published {
  double low = 0.2, high = 0.2, dual = 0;
};
Published published(const std::string& loss) {
  if (loss == "ppo_clip") return {0.2, 0.2, 1.7};
  if (loss == "dapo") return {0.2, 0.28, 0};
  if (loss == "cispo") return {1.0, 0.5, 0};
  if (loss == "gspo") return {0.1, 0.1, 0};
  return {};
}

/// One leaf's term of one edge, straight from the loss's formula. `frozen`: log-probs at which
/// factors without gradient are taken.
double leaf_term(const std::string& loss, const Edges& edges, size_t e, size_t l,
                 const std::vector<double>& log_probs, const std::vector<double>& frozen) {
  const Published p = published(loss);
  const double a = edges.leaves[e][l];
  double r = std::exp(log_probs[e] - edges.old[e]);
  if (loss == "gspo") r = edges.path_ratios(log_probs)[static_cast<size_t>(edges.paths[e][l])];
  if (loss == "reinforce") return a * log_probs[e];
  if (loss == "cispo") {
    const double fixed = std::exp(frozen[e] - edges.old[e]);
    return std::clamp(fixed, 1 - p.low, 1 + p.high) * a * log_probs[e];
  }
  if (loss == "sapo") {
    const double tau = a > 0 ? 1.0 : 1.05;
    return a * 4.0 / tau / (1.0 + std::exp(-tau * (r - 1.0)));
  }
  double term = std::min(r * a, std::clamp(r, 1 - p.low, 1 + p.high) * a);
  if (p.dual > 0 && a < 0) term = std::max(term, p.dual * a);
  return term;
}

/// −Σ_edges scale · (w·Σ_leaves term + β·ω·H − λ·ω·d²/2).
double reference_loss(const Edges& edges, const common::LearnerConfig& config,
                      const std::vector<double>& log_probs, const std::vector<double>& frozen) {
  double loss = 0;
  for (size_t e = 0; e < log_probs.size(); ++e) {
    double sum = 0;
    for (size_t l = 0; l < edges.leaves[e].size(); ++l)
      sum += leaf_term(config.loss, edges, e, l, log_probs, frozen);
    const double w =
        std::min(std::exp(edges.old[e] - edges.rollout[e]), config.rollout_is_threshold);
    const double d = log_probs[e] - edges.reference[e];
    loss -= edges.scale[e] * (w * sum + config.entropy_coeff * edges.weight[e] * edges.entropy[e] -
                              config.kl_loss_coef * edges.weight[e] * d * d / 2);
  }
  return loss;
}

class EveryLoss : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryLoss, EqualsTheSumOverLeaves) {
  const common::LearnerConfig config = config_of(GetParam());
  const auto loss = make_loss(config);
  EXPECT_EQ(loss->name(), GetParam());
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Edges edges(seed);
    const double expected = reference_loss(edges, config, edges.now, edges.now);
    EXPECT_NEAR(loss->compute(edges.input(edges.now)).loss.item<double>(), expected,
                1e-12 * std::max(1.0, std::abs(expected)));
  }
}

TEST_P(EveryLoss, GradientAgreesWithFiniteDifferences) {
  const common::LearnerConfig config = config_of(GetParam());
  const auto loss = make_loss(config);
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
    const double slope = (reference_loss(edges, config, ahead, edges.now) -
                          reference_loss(edges, config, behind, edges.now)) /
                         (2 * kStep);
    const double gradient = input.log_probs.grad()[static_cast<int64_t>(e)].item<double>();
    EXPECT_NEAR(gradient, slope, 1e-7 * std::max(1.0, std::abs(slope))) << "edge " << e;
    EXPECT_NEAR(input.entropies.grad()[static_cast<int64_t>(e)].item<double>(),
                -0.03 * edges.weight[e] * edges.scale[e], 1e-12);
  }
}

TEST_P(EveryLoss, OnTheFirstUpdateTheGradientIsThePolicyGradient) {
  common::LearnerConfig config = config_of(GetParam());
  config.rollout_is_threshold = config.entropy_coeff = config.kl_loss_coef = 0;
  const Edges edges(4);
  LossInput input = edges.input(edges.now);
  input.log_probs.requires_grad_(true);
  input.old_log_probs = input.log_probs.detach();
  const LossOutput output = make_loss(config)->compute(input);
  output.loss.backward();
  EXPECT_EQ(output.sums.at("clipfrac"), 0.0);
  EXPECT_EQ(output.sums.at("kl"), 0.0);
  at::Tensor expected = -(input.s_plus + input.s_minus) * input.scale;
  if (config.loss == "gspo") {
    // Every edge of a path carries the mean of the path's coefficients.
    const LossPaths& p = input.paths;
    const at::Tensor credit = p.credit * input.scale.index_select(0, p.edge);
    const at::Tensor of_path = at::zeros({p.count}, credit.options()).index_add(0, p.path, credit);
    expected = -at::zeros_like(expected).index_add(0, p.edge,
                                                   (of_path / p.lengths).index_select(0, p.path));
  }
  EXPECT_LE((input.log_probs.grad() - expected).abs().max().item<double>(), 1e-14);
}

TEST_P(EveryLoss, ExtremeRatiosStayFinite) {
  const auto loss = make_loss(config_of(GetParam()));
  Edges edges(5);
  for (size_t e = 0; e < edges.now.size(); ++e) edges.now[e] += e % 2 == 0 ? 500.0 : -500.0;
  LossInput input = edges.input(edges.now);
  input.log_probs.requires_grad_(true);
  const at::Tensor value = loss->compute(input).loss;
  value.backward();
  EXPECT_TRUE(std::isfinite(value.item<double>()));
  EXPECT_TRUE(input.log_probs.grad().isfinite().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Names, EveryLoss, ::testing::ValuesIn(loss_names()),
                         [](const auto& info) { return info.param; });

TEST(Loss, PublishedSettingsHoldWhereTheConfigurationLeavesThem) {
  auto options = [](const std::string& name) {
    common::LearnerConfig config;
    config.loss = name;
    return make_loss(config)->options();
  };
  EXPECT_EQ(options("ppo_clip").dual_clip, 3.0);
  EXPECT_EQ(options("grpo").dual_clip, 0.0);
  EXPECT_EQ(options("grpo").loss_agg_mode, "seq-mean-token-mean");
  EXPECT_EQ(options("dapo").clip_low, 0.2);
  EXPECT_EQ(options("dapo").clip_high, 0.28);
  EXPECT_EQ(options("dapo").loss_agg_mode, "token-mean");
  EXPECT_EQ(options("dr_grpo").loss_agg_mode, "seq-mean-token-sum-norm");
  EXPECT_EQ(options("gspo").clip_low, 3e-4);
  common::LearnerConfig config;
  config.loss = "dapo";
  config.clip_ratio_high = 0.4;
  config.clip_ratio_c = 2;
  config.loss_agg_mode = "token-sum";
  EXPECT_EQ(make_loss(config)->options().clip_high, 0.4);
  EXPECT_EQ(make_loss(config)->options().dual_clip, 2.0);
  EXPECT_EQ(make_loss(config)->options().loss_agg_mode, "token-sum");
}

/// k1, k2 and k3 against their definitions; the gradient of k2 is that of the KL, of k1 none in the
/// mean.
TEST(Loss, DivergencesFromTheReference) {
  const Edges edges(8);
  for (const std::string kind : {"k1", "k2", "k3"}) {
    common::LearnerConfig config = config_of("reinforce");
    config.kl_loss_type = kind;
    config.entropy_coeff = 0;
    LossInput input = edges.input(edges.now);
    input.s_plus.zero_();
    input.s_minus.zero_();
    const LossOutput output = make_loss(config)->compute(input);
    double expected = 0, unscaled = 0;
    for (size_t e = 0; e < edges.now.size(); ++e) {
      const double d = edges.now[e] - edges.reference[e];
      const double value = kind == "k1" ? d : kind == "k2" ? d * d / 2 : std::exp(-d) - 1 + d;
      expected += config.kl_loss_coef * edges.scale[e] * edges.weight[e] * value;
      unscaled += edges.share[e] * value;
    }
    EXPECT_NEAR(output.loss.item<double>(), expected, 1e-12) << kind;
    EXPECT_NEAR(output.sums.at("reference_kl"), unscaled, 1e-9) << kind;
  }
  common::LearnerConfig config;
  config.kl_loss_type = "k4";
  EXPECT_THROW(make_loss(config), common::ConfigError);
}

TEST(Loss, SumsCountWhatWasClipped) {
  common::LearnerConfig config = config_of("ppo_clip");
  config.rollout_is_threshold = 0;
  config.kl_loss_coef = 0;
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

/// The worked example of docs/extending.md, compiled from the page.
TEST(Extending, TheLossOfThePageDoesWhatItsHeaderSays) {
  common::LearnerConfig config;
  config.loss = "hinge_pg";
  config.rollout_is_threshold = 0;
  const auto loss = make_hinge_pg(config);
  LossInput input;
  input.log_probs = column({0.1, 0.5}).requires_grad_(true);
  input.old_log_probs = column({0, 0});
  input.rollout_log_probs = column({0, 0});
  input.s_plus = column({1, 1});
  input.s_minus = column({0, -2});
  input.entropies = column({0, 0});
  input.share = input.weight = input.scale = column({1, 1});
  const LossOutput output = loss->compute(input);
  output.loss.backward();
  EXPECT_NEAR(output.loss.item<double>(), -(0.1 + (0.2 - 2 * 0.5)), 1e-12);
  EXPECT_NEAR(input.log_probs.grad()[0].item<double>(), -1.0, 1e-12);
  EXPECT_NEAR(input.log_probs.grad()[1].item<double>(), 2.0, 1e-12);
}

}  // namespace
}  // namespace espalier::learner
