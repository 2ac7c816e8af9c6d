#include "learner/edge_head.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "common/rng.h"
#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::relative_error;

at::Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  common::Rng rng(common::derive_key(seed, "test", "matrix"));
  std::vector<double> values(static_cast<size_t>(rows * columns));
  for (double& value : values) value = rng.normal();
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).view({rows, columns});
}

struct HeadCase {
  at::Tensor hidden, head, states, targets, weight_log_prob, weight_entropy;

  HeadCase(int64_t edges, int64_t vocab) {
    hidden = random_matrix(9, 6, 1).requires_grad_(true);
    head = random_matrix(vocab, 6, 2).requires_grad_(true);
    std::vector<int64_t> s, t;
    for (int64_t e = 0; e < edges; ++e) {
      s.push_back((e * 5) % 9);  // states occur several times
      t.push_back((e * 7) % vocab);
    }
    states = at::tensor(s, at::TensorOptions().dtype(at::kLong));
    targets = at::tensor(t, at::TensorOptions().dtype(at::kLong));
    weight_log_prob = random_matrix(edges, 1, 3).squeeze(1);
    weight_entropy = random_matrix(edges, 1, 4).squeeze(1);
  }

  EdgeDistribution reference() const {
    const at::Tensor log_p = at::log_softmax(at::linear(hidden.index_select(0, states), head), -1);
    return {log_p.gather(1, targets.unsqueeze(1)).squeeze(1), -(log_p.exp() * log_p).sum({-1})};
  }
};

void expect_equal(HeadCase& c) {
  auto gradients = [&](const EdgeDistribution& edges) {
    c.hidden.mutable_grad() = c.head.mutable_grad() = at::Tensor();
    (edges.log_probs * c.weight_log_prob + edges.entropies * c.weight_entropy).sum().backward();
    return std::vector<at::Tensor>{c.hidden.grad(), c.head.grad()};
  };
  const EdgeDistribution expected = c.reference();
  const EdgeDistribution actual = edge_distribution(c.hidden, c.head, c.states, c.targets);
  EXPECT_LE(relative_error(actual.log_probs, expected.log_probs), 1e-13);
  EXPECT_LE(relative_error(actual.entropies, expected.entropies), 1e-13);
  const auto of_expected = gradients(expected), of_actual = gradients(actual);
  EXPECT_LE(relative_error(of_actual[0], of_expected[0]), 1e-13);
  EXPECT_LE(relative_error(of_actual[1], of_expected[1]), 1e-13);
}

TEST(EdgeHead, EqualsLogSoftmaxAndItsGradients) {
  HeadCase c(31, 11);
  expect_equal(c);
}

TEST(EdgeHead, ChunksChangeNothing) {
  HeadCase c(60, 80'000);  // 4.8 million logits: more than a chunk
  expect_equal(c);
}

TEST(EdgeHead, LogProbsAloneHaveAGradient) {
  HeadCase c(31, 11);
  const EdgeDistribution edges = edge_distribution(c.hidden, c.head, c.states, c.targets);
  (edges.log_probs * c.weight_log_prob).sum().backward();
  const at::Tensor actual = c.hidden.grad();
  c.hidden.mutable_grad() = at::Tensor();
  (c.reference().log_probs * c.weight_log_prob).sum().backward();
  EXPECT_LE(relative_error(actual, c.hidden.grad()), 1e-13);
}

}  // namespace
}  // namespace espalier::learner
