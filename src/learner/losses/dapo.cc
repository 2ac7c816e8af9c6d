// dapo: grpo with a wider upper clip and a mean over all tokens of the update (Yu et al. 2025, eqs.
// 8 and 12). Its other two parts are algorithm.overlong_* (the soft length penalty) and
// algorithm.filter_groups (no prompt, or no branching, without a spread of rewards).
//
//   J(edge) = S⁺·min(r, 1.28) + S⁻·max(r, 0.8)
//
// Example: S⁺ = 1, S⁻ = −1. r = 2: 1.28 − 2 = −0.72.
#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class Dapo final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    return clipped_objective(input, options());
  }
};

}  // namespace

std::unique_ptr<Loss> make_dapo(const common::LearnerConfig& config) {
  return std::make_unique<Dapo>(
      loss_options("dapo", config, {.clip_high = 0.28, .loss_agg_mode = "token-mean"}));
}

}  // namespace espalier::learner
