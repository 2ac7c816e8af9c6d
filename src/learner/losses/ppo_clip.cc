// ppo_clip: the clipped surrogate (Schulman et al. 2017, eq. 7) with the dual clip of Ye et al.
// 2020, eq. 5: however much likelier a bad action has become, it is held against it only c times.
//
//   J(edge) = S⁺·min(r, 1+ε_hi) + S⁻·min(max(r, 1−ε_lo), c)
//
// Example: ε = 0.2, c = 3, S⁺ = 1, S⁻ = −1. r = 2: 1.2 − 2 = −0.8; r = 4: 1.2 − 3 = −1.8.
#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class PpoClip final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    return clipped_objective(input, options());
  }
};

}  // namespace

std::unique_ptr<Loss> make_ppo_clip(const common::LearnerConfig& config) {
  return std::make_unique<PpoClip>(
      loss_options("ppo_clip", config,
                   {.clip_high = 0.2, .dual_clip = 3, .loss_agg_mode = "seq-mean-token-sum"}));
}

}  // namespace espalier::learner
