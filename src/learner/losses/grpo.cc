// grpo: the clipped surrogate without the dual clip, a mean over each episode's tokens (Shao et al.
// 2024, eq. 3; its divergence is kl_loss_coef).
//
//   J(edge) = S⁺·min(r, 1+ε) + S⁻·max(r, 1−ε)
//
// Example: ε = 0.2, S⁺ = 1, S⁻ = −1. r = 2: 1.2 − 2 = −0.8; r = ½: 0.5 − 0.8 = −0.3.
#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class Grpo final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    return clipped_objective(input, options());
  }
};

}  // namespace

std::unique_ptr<Loss> make_grpo(const common::LearnerConfig& config) {
  return std::make_unique<Grpo>(
      loss_options("grpo", config, {.clip_high = 0.2, .loss_agg_mode = "seq-mean-token-mean"}));
}

}  // namespace espalier::learner
