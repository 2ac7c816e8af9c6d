// cispo: REINFORCE whose importance weight is clipped and carries no gradient, so that no token
// drops out (MiniMax 2025, eqs. 4 and 5).
//
//   J(edge) = sg(clip(r, 1−ε_lo, 1+ε_hi)) · (S⁺ + S⁻) · log π
//
// As published there is no lower clip (ε_lo = 1); ε_hi = 4, a weight of at most 5, is the middle of
// what Khatri et al. 2025 tried.
//
// Example: S⁺ = 2, S⁻ = −1, log π = −1. r = 3: −3; r = 9: −5.
#include <ATen/ops/clamp.h>

#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class Cispo final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    const double low = 1.0 - options().clip_low, high = 1.0 + options().clip_high;
    const at::Tensor ratio = probability_ratio((input.log_probs - input.old_log_probs).detach());
    EdgeObjective objective;
    objective.value =
        at::clamp(ratio, low, high) * (input.s_plus + input.s_minus) * input.log_probs;
    objective.clipped = (ratio < low).logical_or(ratio > high);
    return objective;
  }
};

}  // namespace

std::unique_ptr<Loss> make_cispo(const common::LearnerConfig& config) {
  return std::make_unique<Cispo>(loss_options(
      "cispo", config, {.clip_low = 1, .clip_high = 4, .loss_agg_mode = "token-mean"}));
}

}  // namespace espalier::learner
