// dr_grpo: the clipped surrogate, summed over an episode's tokens and divided by a constant in
// place of its length, so that long failures are not let off (Liu et al. 2025, eq. 3 and its
// listing 1). Without σ: the estimator of the same name.
//
//   J(edge) = S⁺·min(r, 1+ε) + S⁻·max(r, 1−ε),  over loss_scale_factor
//
// Example: ε = 0.2, S⁺ = 1, S⁻ = −1. r = 2: 1.2 − 2 = −0.8.
#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class DrGrpo final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    return clipped_objective(input, options());
  }
};

}  // namespace

std::unique_ptr<Loss> make_dr_grpo(const common::LearnerConfig& config) {
  return std::make_unique<DrGrpo>(loss_options(
      "dr_grpo", config, {.clip_high = 0.2, .loss_agg_mode = "seq-mean-token-sum-norm"}));
}

}  // namespace espalier::learner
