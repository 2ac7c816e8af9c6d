// Policy losses on tree edges, and what is composed with them. Sees torch.
//
// An edge is one action token predicted from the state before it. Where leaves below an edge
// disagree in sign, one summed weight is wrong under clipping; with S⁺ = ΣA⁺ and S⁻ = ΣA⁻ (weights
// included) losses that are linear in A for each sign are exact:
//   Σ_l min(r·A_l, clip(r)·A_l) = S⁺·min(r, 1+ε_hi) + S⁻·max(r, 1−ε_lo),  r = exp(new − old)
//
// Every loss says what an edge is worth, J. The same composition follows for all:
//   loss = −Σ_edges scale · [ w·J + β·ω·H − λ·ω·D ]
//   w = min(exp(old − rollout), C)  truncated importance sampling, without gradient (Yao et al.
//                                   2025); C = rollout_is_threshold
//   H = entropy of the edge's distribution; β = entropy_coeff
//   D = divergence from the reference policy, with d = new − reference (Schulman 2020): k1 = d,
//       k2 = d²/2 (the gradient of KL(π ‖ reference)), k3 = exp(−d) − 1 + d; λ = kl_loss_coef
// `scale` is loss_agg_mode's (packing.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/config.h"

namespace espalier::learner {

/// The root-to-leaf paths of a micro-batch whose leaf has a reward; P pairs of an edge and a path
/// through it.
struct LossPaths {
  int64_t count = 0;
  at::Tensor edge, path;  // [P] int64
  at::Tensor credit;      // [P] the leaf's coefficient at the edge, its weight included
  at::Tensor share;       // [P] part of the edge that this leaf is
  at::Tensor lengths;     // [count] edges of each path
};

/// One micro-batch of edges, all tensors [E], float32 (float64 for a float64 model).
struct LossInput {
  at::Tensor log_probs;  // new, differentiable
  at::Tensor
      old_log_probs;  // π_old the ratio is taken against (learner's, at the start of the step)
  at::Tensor rollout_log_probs;    // recorded by the sampler; for truncated importance sampling
  at::Tensor reference_log_probs;  // for the divergence; may be undefined where kl_coef is 0
  at::Tensor s_plus;               // ≥ 0
  at::Tensor s_minus;              // ≤ 0
  at::Tensor entropies;            // new; differentiable
  at::Tensor share;                // part of a tree's edge this entry stands for; 1 when packed
  at::Tensor weight;  // ω · share, as in S⁺ and S⁻: weighs entropy and divergence
  at::Tensor scale;   // loss_agg_mode's factor of the edge
  LossPaths paths;    // where the loss needs them
};

struct LossOutput {
  at::Tensor loss;  // scalar, to be minimised
  /// Over edges: "pg_loss" (scaled, so that micro-batches add up to the update's); by share:
  /// "clipfrac", "clipfrac_lower" (dual clip), "kl" (old − new), "entropy", "edges",
  /// "reference_kl" (D, where kl_coef is not 0).
  std::map<std::string, double> sums;
};

/// What an edge is worth.
struct EdgeObjective {
  at::Tensor value = {};          // [E] J, to be maximised; differentiable in log_probs
  at::Tensor clipped = {};        // [E] whether (or to what part) clipping bites; undefined: never
  at::Tensor clipped_lower = {};  // [E] the same of the dual clip
};

enum class Divergence { k1, k2, k3 };

/// A loss's settings: the configuration's, or its published ones where that says auto or −1.
struct LossOptions {
  std::string name = {};
  double clip_low = 0.2, clip_high = 0.2;
  double dual_clip = 0;                   // 0: off
  std::string loss_agg_mode = {};         // packing.h
  double rollout_is_threshold = 0;        // 0: off
  double entropy_coeff = 0, kl_coef = 0;  // 0: off
  Divergence divergence = Divergence::k3;
  double sapo_tau_pos = 1, sapo_tau_neg = 1.05;
};

/// Thread contract: compute() is pure.
class Loss {
 public:
  explicit Loss(LossOptions options) : options_(std::move(options)) {}
  virtual ~Loss() = default;

  const std::string& name() const { return options_.name; }
  const LossOptions& options() const { return options_; }
  /// Whether LossInput::paths is wanted.
  virtual bool needs_paths() const { return false; }

  LossOutput compute(const LossInput& input) const;

 private:
  virtual EdgeObjective objective(const LossInput& input) const = 0;

  LossOptions options_;
};

/// `published`: what holds where the configuration leaves it to the loss.
LossOptions loss_options(const std::string& name, const common::LearnerConfig& config,
                         LossOptions published);

/// Errors: ConfigError with the names there are.
std::unique_ptr<Loss> make_loss(const common::LearnerConfig& config);
std::vector<std::string> loss_names();

}  // namespace espalier::learner
