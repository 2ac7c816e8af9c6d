#include "learner/tree_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::relative_error;
using test::TreeMaker;

struct Shape {
  int64_t heads = 4, kv_heads = 2, head_dim = 8;
};

at::Tensor random_tensor(std::vector<int64_t> sizes, uint64_t seed) {
  common::Rng rng(common::derive_key(seed, "test", "tensor"));
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = rng.normal();
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).view(sizes);
}

/// Additive mask of "ancestor or self": 0 where token q sees token k, else −∞.
at::Tensor dense_mask(const Packed& packed) {
  const int64_t n = static_cast<int64_t>(packed.tokens.size());
  at::Tensor mask = at::zeros({n, n}, at::TensorOptions().dtype(at::kDouble));
  mask.fill_(-std::numeric_limits<double>::infinity());
  for (const Segment& segment : packed.segments) {
    for (int64_t k = segment.begin; k < segment.end; ++k)
      mask.narrow(1, k, 1).narrow(0, k, segment.subtree_end - k).zero_();
  }
  return mask;
}

at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask) {
  const int64_t repeat = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(repeat, 1).transpose(0, 1);
  const at::Tensor values = v.repeat_interleave(repeat, 1).transpose(0, 1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor scores = at::matmul(q.transpose(0, 1), keys.transpose(1, 2)) * scale + mask;
  return at::matmul(at::softmax(scores, -1), values).transpose(0, 1);
}

struct Case {
  Packed packed;
  at::Tensor q, k, v, grad;  // float64

  explicit Case(uint64_t seed, const Shape& shape = {}) {
    test::RandomTreeOptions options;
    options.depth = static_cast<int>(1 + seed % 6);
    options.max_branching = static_cast<int>(1 + seed % 4);
    options.max_tokens = seed % 2 == 0 ? 4 : 30;
    options.max_nodes = 15;
    packed = pack(pointers(TreeMaker(seed, options).make(2)), {}).at(0);
    const int64_t n = static_cast<int64_t>(packed.tokens.size());
    q = random_tensor({n, shape.heads, shape.head_dim}, 4 * seed);
    k = random_tensor({n, shape.kv_heads, shape.head_dim}, 4 * seed + 1);
    v = random_tensor({n, shape.kv_heads, shape.head_dim}, 4 * seed + 2);
    grad = random_tensor({n, shape.heads, shape.head_dim}, 4 * seed + 3);
  }

  AttentionLayoutPtr layout(AttentionKernels kernels) const {
    return make_layout(plan_attention(packed.segments, static_cast<int64_t>(packed.tokens.size())),
                       at::kCPU, kernels);
  }
};

/// out, dq, dk, dv of a function of (q, k, v).
template <class Attend>
std::vector<at::Tensor> run(const Case& c, at::ScalarType type, Attend attend) {
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& input : {c.q, c.k, c.v})
    inputs.push_back(input.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true));
  const at::Tensor out = attend(inputs[0], inputs[1], inputs[2]);
  out.backward(c.grad.to(type));
  return {out.detach(), inputs[0].grad(), inputs[1].grad(), inputs[2].grad()};
}

std::vector<at::Tensor> run_dense(const Case& c) {
  const at::Tensor mask = dense_mask(c.packed);
  return run(c, at::kDouble, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return dense_attention(q, k, v, mask);
  });
}

std::vector<at::Tensor> run_tree(const Case& c, at::ScalarType type, AttentionKernels kernels) {
  const AttentionLayoutPtr layout = c.layout(kernels);
  return run(c, type, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return tree_attention(q, k, v, layout);
  });
}

struct Precision {
  at::ScalarType type;
  AttentionKernels kernels;
  double tolerance;
};

class TreeAttention : public ::testing::TestWithParam<Precision> {};

TEST_P(TreeAttention, EqualsDenseMaskedAttentionAndItsGradients) {
  const Precision precision = GetParam();
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Case c(seed);
    const std::vector<at::Tensor> expected = run_dense(c);
    const std::vector<at::Tensor> actual = run_tree(c, precision.type, precision.kernels);
    const char* names[] = {"out", "dq", "dk", "dv"};
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(actual[i].scalar_type(), precision.type);
      EXPECT_LE(relative_error(actual[i], expected[i]), precision.tolerance)
          << names[i] << " of seed " << seed << ", " << c.packed.tokens.size() << " tokens";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, TreeAttention,
                         ::testing::Values(Precision{at::kDouble, AttentionKernels::fused, 1e-13},
                                           Precision{at::kDouble, AttentionKernels::plain, 1e-13},
                                           Precision{at::kFloat, AttentionKernels::fused, 2e-6},
                                           Precision{at::kFloat, AttentionKernels::plain, 2e-6},
                                           Precision{at::kBFloat16, AttentionKernels::fused, 2e-2},
                                           Precision{at::kBFloat16, AttentionKernels::plain, 2e-2}),
                         [](const ::testing::TestParamInfo<Precision>& info) {
                           return std::string(at::toString(info.param.type)) +
                                  (info.param.kernels == AttentionKernels::fused ? "Fused"
                                                                                 : "Plain");
                         });

TEST(TreeAttentionGradient, AgreesWithFiniteDifferences) {
  const Case c(3, {.heads = 2, .kv_heads = 1, .head_dim = 4});
  const AttentionLayoutPtr layout = c.layout(AttentionKernels::fused);
  const std::vector<at::Tensor> gradients = run_tree(c, at::kDouble, AttentionKernels::fused);
  const std::vector<at::Tensor> inputs = {c.q, c.k, c.v};
  auto value = [&](const std::vector<at::Tensor>& at_inputs) {
    return (tree_attention(at_inputs[0], at_inputs[1], at_inputs[2], layout) * c.grad)
        .sum()
        .item<double>();
  };
  constexpr double kStep = 1e-5;
  for (size_t which = 0; which < inputs.size(); ++which) {
    const at::Tensor direction = random_tensor(inputs[which].sizes().vec(), 77 + which);
    std::vector<at::Tensor> ahead = inputs, behind = inputs;
    ahead[which] = inputs[which] + kStep * direction;
    behind[which] = inputs[which] - kStep * direction;
    const double slope = (value(ahead) - value(behind)) / (2 * kStep);
    const double expected = (gradients[which + 1] * direction).sum().item<double>();
    EXPECT_NEAR(slope, expected, 1e-6 * std::max(1.0, std::abs(expected))) << "input " << which;
  }
}

TEST(TreeAttentionGradient, LargeScoresStayFinite) {
  Case c(5);
  c.q.mul_(60);
  c.k.mul_(60);
  for (AttentionKernels kernels : {AttentionKernels::fused, AttentionKernels::plain}) {
    for (const at::Tensor& tensor : run_tree(c, at::kFloat, kernels))
      EXPECT_TRUE(tensor.isfinite().all().item<bool>());
  }
}

}  // namespace
}  // namespace espalier::learner
