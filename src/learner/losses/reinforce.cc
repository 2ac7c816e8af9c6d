// reinforce: the plain policy gradient (Williams 1992), without a ratio: what happened since the
// rollout is left to truncated importance sampling.
//
//   J(edge) = (S⁺ + S⁻) · log π
//
// Example: S⁺ = 2, S⁻ = −1, log π = −1: J = −1.
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class Reinforce final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    return {.value = (input.s_plus + input.s_minus) * input.log_probs};
  }
};

}  // namespace

std::unique_ptr<Loss> make_reinforce(const common::LearnerConfig& config) {
  return std::make_unique<Reinforce>(
      loss_options("reinforce", config, {.loss_agg_mode = "seq-mean-token-sum"}));
}

}  // namespace espalier::learner
