// Policy losses on tree edges. Sees torch.
//
// An edge is one action token predicted from the state before it. Where leaves below an edge disagree in sign, one
// summed weight is wrong under clipping; with S⁺ = ΣA⁺ and S⁻ = ΣA⁻ (weights included) the clipped objective is exact:
//   Σ_l min(r·A_l, clip(r)·A_l) = S⁺·min(r, 1+ε_hi) + S⁻·max(r, 1−ε_lo)        (reference: tree-rl, losses §3)
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/config.h"

namespace espalier::learner {

/// One micro-batch of edges, all tensors [E] of the model's dtype (loss sums in at least float32).
struct LossInput {
  at::Tensor log_probs;       // new, differentiable
  at::Tensor old_log_probs;   // π_old the ratio is taken against (learner's, at the start of the step)
  at::Tensor rollout_log_probs;  // recorded by the sampler; for truncated importance sampling
  at::Tensor s_plus;          // ≥ 0
  at::Tensor s_minus;         // ≤ 0
  at::Tensor entropies;       // new, differentiable where the entropy bonus is on; may be undefined
  double scale = 1.0;         // 1 / normaliser of the whole batch (loss_agg_mode)
};

struct LossOutput {
  at::Tensor loss;                        // scalar, to be minimised
  std::map<std::string, double> sums;     // "pg_loss", "clipfrac", "kl", "entropy", "edges": summed over edges
};

class Loss {
 public:
  virtual ~Loss() = default;
  virtual std::string name() const = 0;
  virtual LossOutput compute(const LossInput& input) const = 0;
};

/// "ppo_clip" (dual clip by clip_ratio_c) and "grpo" (PPO clip, no dual clip). Errors: ConfigError with the names there are.
std::unique_ptr<Loss> make_loss(const common::LearnerConfig& config);
std::vector<std::string> loss_names();

}  // namespace espalier::learner
