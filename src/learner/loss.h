// Policy losses on tree edges. Sees torch.
//
// An edge is one action token predicted from the state before it. Where leaves below an edge
// disagree in sign, one summed weight is wrong under clipping; with S⁺ = ΣA⁺ and S⁻ = ΣA⁻ (weights
// included) the clipped objective is exact:
//   Σ_l min(r·A_l, clip(r)·A_l) = S⁺·min(r, 1+ε_hi) + S⁻·max(r, 1−ε_lo)
// with r = exp(new − old); PPO: Schulman et al. 2017, eq. 7. The dual clip (Ye et al. 2020, eq. 5)
// bounds the second factor: S⁻·min(max(r, 1−ε_lo), c). Truncated importance sampling multiplies an
// edge's term by min(exp(old − rollout), C), without gradient (C = rollout_is_threshold).
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/config.h"

namespace espalier::learner {

/// One micro-batch of edges, all tensors [E], float32 (float64 for a float64 model).
struct LossInput {
  at::Tensor log_probs;  // new, differentiable
  at::Tensor
      old_log_probs;  // π_old the ratio is taken against (learner's, at the start of the step)
  at::Tensor rollout_log_probs;  // recorded by the sampler; for truncated importance sampling
  at::Tensor s_plus;             // ≥ 0
  at::Tensor s_minus;            // ≤ 0
  at::Tensor entropies;          // new; differentiable
  at::Tensor share;              // part of a tree's edge this entry stands for; 1 when packed
  at::Tensor weight;             // ω · share, as in S⁺ and S⁻: weighs the entropy bonus
  at::Tensor scale;              // loss_agg_mode's factor of the edge (packing.h)
};

struct LossOutput {
  at::Tensor loss;  // scalar, to be minimised
  /// Over edges: "pg_loss" (scaled, so that micro-batches add up to the update's); by share:
  /// "clipfrac", "clipfrac_lower" (dual clip), "kl" (old − new), "entropy", "edges".
  std::map<std::string, double> sums;
};

/// Thread contract: compute() is pure.
class Loss {
 public:
  virtual ~Loss() = default;
  virtual std::string name() const = 0;
  virtual LossOutput compute(const LossInput& input) const = 0;
};

/// "ppo_clip" (dual clip by clip_ratio_c) and "grpo" (PPO clip, no dual clip). Errors: ConfigError
/// with the names there are.
std::unique_ptr<Loss> make_loss(const common::LearnerConfig& config);
std::vector<std::string> loss_names();

}  // namespace espalier::learner
