#include "policy/transformer.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>

#include "common/error.h"

namespace espalier::policy {
namespace {

/// Norms and rotations of half-precision models are computed in float32, as transformers does.
at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// x · rsqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor x_wide = x.to(wide(x.scalar_type()));
  const at::Tensor scale = at::rsqrt(at::mean(x_wide * x_wide, {-1}, /*keepdim=*/true) + eps);
  return weight * (x_wide * scale).to(x.scalar_type());
}

/// cos and signed sin of RoPE (Su et al. 2021), [N, 1, head_dim]: element i turns with element i ±
/// head_dim/2, so that rotated = x·cos + roll(x, head_dim/2)·sin, sin negative in the first half.
struct Rotation {
  at::Tensor cos, sin;
};

Rotation make_rotation(const ModelShape& shape, const at::Tensor& positions, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(wide(dtype)).device(positions.device());
  const at::Tensor exponents = at::arange(0, shape.head_dim, 2, options) / shape.head_dim;
  const at::Tensor frequencies = 1.0 / at::pow(at::Scalar(shape.rope_theta), exponents);
  const at::Tensor angles = at::outer(positions.to(options.dtype()), frequencies);
  const at::Tensor cos = angles.cos(), sin = angles.sin();
  return {at::cat({cos, cos}, -1).unsqueeze(1).to(dtype),
          at::cat({-sin, sin}, -1).unsqueeze(1).to(dtype)};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  return x * rotation.cos + at::roll(x, {x.size(-1) / 2}, {-1}) * rotation.sin;
}

struct Layer {
  const Weights& weights;
  int index;
  std::string prefix = "model.layers." + std::to_string(index) + ".";

  const at::Tensor& tensor(const char* name) const { return weights.at(prefix + name); }
  at::Tensor linear(const at::Tensor& x, const char* name) const {
    const at::Tensor y = at::linear(x, tensor(name));
    const auto found = weights.adapters.find(prefix + name);
    if (found == weights.adapters.end()) return y;
    const Weights::Adapter& adapter = found->second;
    return y + at::linear(at::linear(x, adapter.a), adapter.b) * adapter.scale;
  }
  at::Tensor norm(const at::Tensor& x, const char* name) const {
    return rms_norm(x, tensor(name), weights.shape.rms_norm_eps);
  }

  at::Tensor attend(const at::Tensor& x, const Rotation& rotation,
                    const Attention& attention) const {
    const ModelShape& shape = weights.shape;
    const int64_t n = x.size(0);
    at::Tensor q =
        linear(x, "self_attn.q_proj.weight").view({n, shape.num_attention_heads, shape.head_dim});
    at::Tensor k =
        linear(x, "self_attn.k_proj.weight").view({n, shape.num_key_value_heads, shape.head_dim});
    const at::Tensor v =
        linear(x, "self_attn.v_proj.weight").view({n, shape.num_key_value_heads, shape.head_dim});
    if (shape.qk_norm) {
      q = norm(q, "self_attn.q_norm.weight");
      k = norm(k, "self_attn.k_norm.weight");
    }
    const at::Tensor out = attention(index, rotate(q, rotation), rotate(k, rotation), v);
    return linear(out.reshape({n, int64_t{shape.num_attention_heads} * shape.head_dim}),
                  "self_attn.o_proj.weight");
  }

  /// SwiGLU (Shazeer 2020).
  at::Tensor feed_forward(const at::Tensor& x) const {
    const at::Tensor gate = at::silu(linear(x, "mlp.gate_proj.weight"));
    return linear(gate * linear(x, "mlp.up_proj.weight"), "mlp.down_proj.weight");
  }

  at::Tensor operator()(const at::Tensor& x, const Rotation& rotation,
                        const Attention& attention) const {
    const at::Tensor hidden = x + attend(norm(x, "input_layernorm.weight"), rotation, attention);
    return hidden + feed_forward(norm(hidden, "post_attention_layernorm.weight"));
  }
};

}  // namespace

at::Tensor forward_hidden(const Weights& weights, const at::Tensor& tokens,
                          const at::Tensor& positions, const Attention& attention,
                          const LayerRunner& run) {
  const ModelShape& shape = weights.shape;
  at::Tensor hidden = at::embedding(weights.at("model.embed_tokens.weight"), tokens);
  const Rotation rotation = make_rotation(shape, positions, hidden.scalar_type());
  for (int index = 0; index < shape.num_hidden_layers; ++index) {
    const auto layer = [&weights, index, rotation, attention](const at::Tensor& x) {
      return Layer{weights, index}(x, rotation, attention);
    };
    hidden = run ? run(layer, hidden) : layer(hidden);
  }
  return rms_norm(hidden, weights.at("model.norm.weight"), shape.rms_norm_eps);
}

at::Tensor lm_head(const Weights& weights, const at::Tensor& hidden) {
  const bool tied = weights.shape.tie_word_embeddings;
  return at::linear(hidden, weights.at(tied ? "model.embed_tokens.weight" : "lm_head.weight"));
}

}  // namespace espalier::policy
