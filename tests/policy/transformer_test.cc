#include "policy/transformer.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "policy/models.h"

namespace espalier::policy {
namespace {

using testing::random_weights;
using testing::tiny_shape;

/// One sequence under a plain causal mask, by the library's attention.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  return at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), {}, 0.0,
                                          /*is_causal=*/true, {}, /*enable_gqa=*/true)
      .squeeze(0)
      .transpose(0, 1);
}

at::Tensor logits_of(const Weights& weights, const std::vector<Token>& tokens) {
  const at::Tensor ids = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), at::kLong);
  std::vector<int64_t> positions;
  for (size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<int64_t>(i));
  const at::Tensor hidden =
      forward_hidden(weights, ids, at::tensor(positions, at::kLong),
                     [](int, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                       return causal_attention(q, k, v);
                     });
  return lm_head(weights, hidden);
}

double largest_difference(const at::Tensor& logits,
                          const std::vector<std::vector<double>>& expected) {
  const at::Tensor wide = logits.detach().to(at::kDouble).contiguous();
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    for (size_t j = 0; j < expected[i].size(); ++j) {
      const double value = wide.const_data_ptr<double>()[i * expected[i].size() + j];
      largest = std::max(largest, std::abs(value - expected[i][j]));
    }
  }
  return largest;
}

class TransformerShapes : public ::testing::TestWithParam<std::pair<bool, bool>> {
 protected:
  ModelShape shape() const {
    ModelShape shape = tiny_shape();
    shape.qk_norm = GetParam().first;
    shape.tie_word_embeddings = GetParam().second;
    return shape;
  }
};

TEST_P(TransformerShapes, EqualsThePlainFormulas) {
  const auto weights = random_weights(shape(), 5);
  const auto tokens = testing::random_tokens(19, shape().vocab_size, 6);
  const auto expected = testing::reference_logits(*weights, tokens);
  EXPECT_LT(largest_difference(logits_of(*weights->clone(at::kDouble), tokens), expected), 1e-12);
  EXPECT_LT(largest_difference(logits_of(*weights, tokens), expected), 2e-5);
  EXPECT_LT(largest_difference(logits_of(*weights->clone(at::kBFloat16), tokens), expected), 0.2);
}

INSTANTIATE_TEST_SUITE_P(All, TransformerShapes,
                         ::testing::Values(std::pair(true, true), std::pair(true, false),
                                           std::pair(false, true)));

TEST(Transformer, GradientsReachEveryParameter) {
  auto weights = random_weights(tiny_shape(), 7)->clone(at::kDouble);
  for (auto& [name, tensor] : weights->tensors) tensor.set_requires_grad(true);
  logits_of(*weights, testing::random_tokens(12, 37, 8)).pow(2).sum().backward();
  for (const auto& [name, tensor] : weights->tensors) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << name;
  }
}

TEST(Transformer, GradientsEqualFiniteDifferences) {
  auto weights = random_weights(tiny_shape(), 9)->clone(at::kDouble);
  for (auto& [name, tensor] : weights->tensors) tensor.set_requires_grad(true);
  const auto tokens = testing::random_tokens(8, 37, 10);
  auto loss = [&] { return logits_of(*weights, tokens).log_softmax(-1).select(1, 3).sum(); };
  loss().backward();
  constexpr double kStep = 1e-5;
  for (auto& [name, tensor] : weights->tensors) {
    double* value = tensor.mutable_data_ptr<double>() + tensor.numel() / 2;
    const double gradient = tensor.grad().contiguous().const_data_ptr<double>()[tensor.numel() / 2];
    const double saved = *value;
    *value = saved + kStep;
    const double above = loss().item<double>();
    *value = saved - kStep;
    const double below = loss().item<double>();
    *value = saved;
    EXPECT_NEAR(gradient, (above - below) / (2 * kStep), 1e-6) << name;
  }
}

TEST(Transformer, FreshModelIsNearUniform) {
  for (bool tied : {true, false}) {
    ModelShape shape;
    shape.vocab_size = 350;
    shape.tie_word_embeddings = tied;
    const auto weights = init_weights(shape, common::RngKey{3});
    const auto tokens = testing::random_tokens(40, shape.vocab_size, 4);
    const at::Tensor log_probs = logits_of(*weights, tokens).log_softmax(-1);
    const double entropy = -(log_probs.exp() * log_probs).sum(-1).mean().item<double>();
    EXPECT_GT(entropy, 0.9 * std::log(350.0)) << "tied: " << tied;
  }
}

TEST(Transformer, MissingTensorIsNamed) {
  auto weights = random_weights(tiny_shape(), 11);
  weights->tensors.erase("model.layers.1.mlp.up_proj.weight");
  try {
    logits_of(*weights, {1, 2});
    FAIL() << "no error";
  } catch (const common::PolicyError& error) {
    EXPECT_NE(std::string(error.what()).find("model.layers.1.mlp.up_proj.weight"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace espalier::policy
