#include "policy/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "common/error.h"

namespace espalier::policy {
using common::PolicyError;
namespace {

[[noreturn]] void refuse(const char* field, double seen, const char* allowed) {
  throw PolicyError(std::string("sampling: ") + field + " is " + std::to_string(seen) +
                    "; allowed: " + allowed);
}

std::vector<double> tempered_weights(std::span<const float> log_probs, double temperature) {
  const double top = *std::max_element(log_probs.begin(), log_probs.end());
  std::vector<double> weights(log_probs.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::exp((log_probs[i] - top) / temperature);
  }
  return weights;
}

/// Sets the weights outside of top-k and top-p to zero.
void restrict_to_top(std::vector<double>& weights, const SamplingOptions& options) {
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  size_t kept = order.size();
  if (options.top_k > 0) kept = std::min(kept, static_cast<size_t>(options.top_k));
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += weights[order[i]];
  double mass = 0;
  for (size_t i = 0; i < kept; ++i) {
    mass += weights[order[i]];
    if (mass >= options.top_p * total) kept = i + 1;
  }
  for (size_t i = kept; i < order.size(); ++i) weights[order[i]] = 0;
}

template <class Weight>
Token invert(std::span<const Weight> weights, double u) {
  double total = 0;
  for (Weight weight : weights) total += weight;
  const double target = u * total;
  double mass = 0;
  Token last = 0;  // rounding may leave the sum short of the target
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    mass += weights[i];
    last = static_cast<Token>(i);
    if (mass > target) break;
  }
  return last;
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    refuse("temperature", options.temperature, "0 (greedy) or more");
  }
  if (!(options.top_p > 0 && options.top_p <= 1))
    refuse("top_p", options.top_p, "above 0, up to 1");
  if (options.top_k != -1 && options.top_k < 1)
    refuse("top_k", options.top_k, "-1 (off) or 1 and more");
  if (options.max_new_tokens < 1) refuse("max_new_tokens", options.max_new_tokens, "1 or more");
}

Token sample(std::span<const float> log_probs, std::span<const float> probs,
             const SamplingOptions& options, double u) {
  // One logit that is not finite makes every normalised value so.
  if (!std::isfinite(log_probs[0])) {
    throw PolicyError("sampling: the model's logits are not finite");
  }
  if (options.temperature == 0) {
    return static_cast<Token>(std::max_element(log_probs.begin(), log_probs.end()) -
                              log_probs.begin());
  }
  const bool whole = options.top_k <= 0 && options.top_p >= 1;
  if (whole && options.temperature == 1) return invert(probs, u);
  std::vector<double> weights = tempered_weights(log_probs, options.temperature);
  if (!whole) restrict_to_top(weights, options);
  return invert(std::span<const double>(weights), u);
}

}  // namespace espalier::policy
