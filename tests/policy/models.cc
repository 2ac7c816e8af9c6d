#include "policy/models.h"

#include <algorithm>
#include <cmath>

#include "common/rng.h"

namespace espalier::policy::testing {
namespace {

using Matrix = std::vector<std::vector<double>>;
using Vector = std::vector<double>;

Matrix matrix(const Weights& weights, const std::string& name) {
  const at::Tensor tensor = weights.at(name).to(at::kDouble).contiguous();
  const double* data = tensor.const_data_ptr<double>();
  Matrix rows;
  for (int64_t i = 0; i < tensor.size(0); ++i)
    rows.emplace_back(data + i * tensor.size(1), data + (i + 1) * tensor.size(1));
  return rows;
}

Vector vector(const Weights& weights, const std::string& name) {
  const at::Tensor tensor = weights.at(name).to(at::kDouble).contiguous();
  const double* data = tensor.const_data_ptr<double>();
  return {data, data + tensor.numel()};
}

Vector multiply(const Matrix& m, const Vector& x) {
  Vector y;
  for (const Vector& row : m) {
    double total = 0;
    for (size_t i = 0; i < row.size(); ++i) total += row[i] * x[i];
    y.push_back(total);
  }
  return y;
}

Vector norm(const Vector& x, const Vector& weight, double eps) {
  double square = 0;
  for (double v : x) square += v * v;
  const double scale = 1.0 / std::sqrt(square / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weight[i];
  return y;
}

Vector head_of(const Vector& x, int head, int head_dim) {
  return {x.begin() + head * head_dim, x.begin() + (head + 1) * head_dim};
}

Vector turn(const Vector& x, size_t position, double theta) {
  const size_t half = x.size() / 2;
  Vector y(x.size());
  for (size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) /
        std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    y[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
    y[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

double dot(const Vector& a, const Vector& b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

void attention(const Weights& weights, const std::string& prefix, const Matrix& inputs,
               Matrix& hidden) {
  const ModelShape& s = weights.shape;
  const Matrix wq = matrix(weights, prefix + "q_proj.weight"),
               wk = matrix(weights, prefix + "k_proj.weight");
  const Matrix wv = matrix(weights, prefix + "v_proj.weight"),
               wo = matrix(weights, prefix + "o_proj.weight");
  std::vector<Matrix> k(inputs.size()), v(inputs.size());
  for (size_t t = 0; t < inputs.size(); ++t) {
    const Vector q_all = multiply(wq, inputs[t]), k_all = multiply(wk, inputs[t]),
                 v_all = multiply(wv, inputs[t]);
    for (int h = 0; h < s.num_key_value_heads; ++h) {
      Vector key = head_of(k_all, h, s.head_dim);
      if (s.qk_norm) key = norm(key, vector(weights, prefix + "k_norm.weight"), s.rms_norm_eps);
      k[t].push_back(turn(key, t, s.rope_theta));
      v[t].push_back(head_of(v_all, h, s.head_dim));
    }
    Vector mixed;
    for (int h = 0; h < s.num_attention_heads; ++h) {
      Vector query = head_of(q_all, h, s.head_dim);
      if (s.qk_norm) query = norm(query, vector(weights, prefix + "q_norm.weight"), s.rms_norm_eps);
      query = turn(query, t, s.rope_theta);
      const size_t kv = static_cast<size_t>(h / (s.num_attention_heads / s.num_key_value_heads));
      Vector scores;
      for (size_t u = 0; u <= t; ++u)
        scores.push_back(dot(query, k[u][kv]) / std::sqrt(s.head_dim));
      const Vector log_weights = log_softmax(scores);
      Vector out(static_cast<size_t>(s.head_dim), 0.0);
      for (size_t u = 0; u <= t; ++u) {
        for (size_t i = 0; i < out.size(); ++i) out[i] += std::exp(log_weights[u]) * v[u][kv][i];
      }
      mixed.insert(mixed.end(), out.begin(), out.end());
    }
    const Vector projected = multiply(wo, mixed);
    for (size_t i = 0; i < projected.size(); ++i) hidden[t][i] += projected[i];
  }
}

void feed_forward(const Weights& weights, const std::string& prefix, const Matrix& inputs,
                  Matrix& hidden) {
  const Matrix gate = matrix(weights, prefix + "gate_proj.weight"),
               up = matrix(weights, prefix + "up_proj.weight");
  const Matrix down = matrix(weights, prefix + "down_proj.weight");
  for (size_t t = 0; t < inputs.size(); ++t) {
    Vector g = multiply(gate, inputs[t]);
    const Vector u = multiply(up, inputs[t]);
    for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1.0 + std::exp(-g[i])) * u[i];
    const Vector out = multiply(down, g);
    for (size_t i = 0; i < out.size(); ++i) hidden[t][i] += out[i];
  }
}

Matrix normed(const Weights& weights, const std::string& name, const Matrix& hidden) {
  const Vector weight = vector(weights, name);
  Matrix out;
  for (const Vector& h : hidden) out.push_back(norm(h, weight, weights.shape.rms_norm_eps));
  return out;
}

}  // namespace

std::shared_ptr<Weights> random_weights(const ModelShape& shape, uint64_t seed) {
  auto weights = init_weights(shape, common::RngKey{seed});
  common::Rng rng(common::RngKey{seed + 1});
  for (auto& [name, tensor] : weights->tensors) {
    if (tensor.dim() != 1) continue;
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      tensor.mutable_data_ptr<float>()[i] = static_cast<float>(0.5 + rng.uniform());
    }
  }
  return weights;
}

std::vector<std::vector<double>> reference_logits(const Weights& weights,
                                                  const std::vector<Token>& tokens) {
  const Matrix embedding = matrix(weights, "model.embed_tokens.weight");
  Matrix hidden;
  for (Token token : tokens) hidden.push_back(embedding[static_cast<size_t>(token)]);
  for (int layer = 0; layer < weights.shape.num_hidden_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    attention(weights, prefix + "self_attn.",
              normed(weights, prefix + "input_layernorm.weight", hidden), hidden);
    feed_forward(weights, prefix + "mlp.",
                 normed(weights, prefix + "post_attention_layernorm.weight", hidden), hidden);
  }
  const Matrix head =
      weights.shape.tie_word_embeddings ? embedding : matrix(weights, "lm_head.weight");
  Matrix logits;
  for (const Vector& h : normed(weights, "model.norm.weight", hidden))
    logits.push_back(multiply(head, h));
  return logits;
}

std::vector<double> log_softmax(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double l : logits) total += std::exp(l - top);
  std::vector<double> out;
  for (double l : logits) out.push_back(l - top - std::log(total));
  return out;
}

double entropy(const std::vector<double>& log_probs) {
  double total = 0;
  for (double l : log_probs) total -= std::exp(l) * l;
  return total;
}

std::vector<Token> random_tokens(size_t count, int vocab, uint64_t seed) {
  common::Rng rng(common::RngKey{seed});
  std::vector<Token> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<Token>(rng.range(0, vocab - 1)));
  return tokens;
}

std::vector<Token> tokens_of(const Context& context) {
  std::vector<Token> tokens;
  if (context.parent()) tokens = tokens_of(*context.parent());
  tokens.insert(tokens.end(), context.tokens().begin(), context.tokens().end());
  return tokens;
}

}  // namespace espalier::policy::testing
