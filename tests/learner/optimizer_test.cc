#include "learner/optimizer.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/error.h"
#include "common/files.h"
#include "common/rng.h"
#include "policy/safetensors.h"

namespace espalier::learner {
namespace {

at::Tensor column(const std::vector<double>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble));
}

std::vector<double> random_values(size_t count, uint64_t seed) {
  common::Rng rng(common::derive_key(seed, "test", "values"));
  std::vector<double> values(count);
  for (double& value : values) value = rng.normal();
  return values;
}

TEST(AdamW, EqualsThePlainRule) {
  const common::OptimConfig config{1e-2, 0, "constant", 0.9, 0.95, 1e-8, 0.1};
  std::vector<double> p = random_values(7, 1), m(7, 0.0), v(7, 0.0);
  at::Tensor parameter = column(p).requires_grad_(true);
  AdamW optimizer({{"p", parameter}});
  for (int t = 1; t <= 20; ++t) {
    const std::vector<double> g = random_values(7, static_cast<uint64_t>(t) + 10);
    parameter.mutable_grad() = column(g);
    optimizer.step(config, config.lr);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] *= 1 - config.lr * config.weight_decay;
      m[i] = config.beta1 * m[i] + (1 - config.beta1) * g[i];
      v[i] = config.beta2 * v[i] + (1 - config.beta2) * g[i] * g[i];
      const double mean = m[i] / (1 - std::pow(config.beta1, t));
      const double square = v[i] / (1 - std::pow(config.beta2, t));
      p[i] -= config.lr * mean / (std::sqrt(square) + config.eps);
    }
    for (size_t i = 0; i < p.size(); ++i)
      ASSERT_NEAR(parameter[static_cast<int64_t>(i)].item<double>(), p[i], 1e-12) << "step " << t;
  }
}

TEST(AdamW, ClipsTheGlobalNorm) {
  at::Tensor a = column({0, 0}).requires_grad_(true), b = column({0}).requires_grad_(true);
  AdamW optimizer({{"a", a}, {"b", b}});
  a.mutable_grad() = column({2, 3});
  b.mutable_grad() = column({6});
  EXPECT_DOUBLE_EQ(optimizer.clip(14.0), 7.0);
  EXPECT_DOUBLE_EQ(b.grad()[0].item<double>(), 6.0) << "below the limit nothing changes";
  EXPECT_DOUBLE_EQ(optimizer.clip(0.0), 7.0) << "0: no clipping";
  EXPECT_DOUBLE_EQ(optimizer.clip(3.5), 7.0);
  EXPECT_DOUBLE_EQ(a.grad()[0].item<double>(), 1.0);
  EXPECT_DOUBLE_EQ(b.grad()[0].item<double>(), 3.0);
}

TEST(AdamW, NamesTheFirstParameterWhoseGradientIsNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  at::Tensor a = column({0}).requires_grad_(true), b = column({0}).requires_grad_(true),
             c = column({0}).requires_grad_(true);
  AdamW optimizer({{"a", a}, {"b", b}, {"c", c}});
  a.mutable_grad() = column({1});
  b.mutable_grad() = column({infinity});
  c.mutable_grad() = column({std::nan("")});
  EXPECT_FALSE(std::isfinite(optimizer.clip(1.0)));
  EXPECT_EQ(optimizer.bad_parameter(), "b");
  optimizer.zero_grad();
  a.mutable_grad() = column({1});
  optimizer.clip(1.0);
  EXPECT_EQ(optimizer.bad_parameter(), "");
}

TEST(AdamW, WritesWhatWasThereWhenAsked) {
  const common::TempDir directory;
  at::Tensor a = column({1, 1}).requires_grad_(true);
  AdamW optimizer({{"a", a}});
  const auto write = optimizer.writer();
  a.mutable_grad() = column({2, 2});
  optimizer.step({}, 0.1);
  write(directory.path());
  const auto saved = policy::load_safetensors(directory.path() / "optimizer.safetensors");
  EXPECT_EQ(saved.at("exp_avg.a").sum().item<double>(), 0.0);
}

TEST(AdamW, RefusesStateOfAnotherModel) {
  const common::TempDir directory;
  at::Tensor a = column({0, 0}).requires_grad_(true), b = column({0}).requires_grad_(true);
  AdamW saved({{"a", a}}), other({{"a", b}}), named({{"c", a}});
  saved.writer()(directory.path());
  EXPECT_NO_THROW(saved.load(directory.path()));
  EXPECT_THROW(other.load(directory.path()), common::StoreError);
  EXPECT_THROW(named.load(directory.path()), common::StoreError);
  EXPECT_THROW(saved.load(directory.path() / "missing"), common::StoreError);
  common::write_file_atomically(directory.path() / "optimizer.safetensors", "damaged");
  EXPECT_THROW(saved.load(directory.path()), common::StoreError);
}

TEST(LearningRate, FollowsItsSchedule) {
  common::OptimConfig config;
  config.lr = 1.0;
  config.lr_warmup_steps = 4;
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 99, 100), 1.0);
  config.lr_scheduler = "linear";
  EXPECT_DOUBLE_EQ(learning_rate(config, 50, 100), 0.55);
  EXPECT_NEAR(learning_rate(config, 100, 100), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 1000, 100), 0.1, 1e-12) << "past the end it stays";
  config.lr_scheduler = "cosine";
  EXPECT_NEAR(learning_rate(config, 50, 100), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(config, 25, 100), 0.1 + 0.45 * (1 + std::sqrt(0.5)), 1e-12);
  config.lr_warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 100), 1.0);
  config.lr_scheduler = "exponential";
  EXPECT_THROW(learning_rate(config, 0, 100), common::ConfigError);
}

}  // namespace
}  // namespace espalier::learner
