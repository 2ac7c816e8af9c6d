// sapo: a sigmoid gate around r = 1 in place of the clip's corners (Gao et al. 2025, eqs. 5 and 6).
//
//   J(edge) = S⁺·f(r, τ₊) + S⁻·f(r, τ₋),  f(r, τ) = (4/τ)·σ(τ·(r − 1))
//
// f' = 1 at r = 1 and falls off on both sides. τ₋ > τ₊ lets go of bad actions sooner.
//
// Example: τ₊ = 1, S⁺ = 1, S⁻ = 0. r = 1: 2; r = 2: 4·σ(1) = 2.924.
#include <ATen/ops/sigmoid.h>

#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

at::Tensor gate(const at::Tensor& ratio, double tau) {
  return at::sigmoid(tau * (ratio - 1.0)) * (4.0 / tau);
}

class Sapo final : public Loss {
 public:
  using Loss::Loss;

 private:
  EdgeObjective objective(const LossInput& input) const override {
    const at::Tensor ratio = probability_ratio(input.log_probs - input.old_log_probs);
    EdgeObjective objective;
    objective.value = input.s_plus * gate(ratio, options().sapo_tau_pos) +
                      input.s_minus * gate(ratio, options().sapo_tau_neg);
    return objective;
  }
};

}  // namespace

std::unique_ptr<Loss> make_sapo(const common::LearnerConfig& config) {
  return std::make_unique<Sapo>(
      loss_options("sapo", config, {.loss_agg_mode = "seq-mean-token-mean"}));
}

}  // namespace espalier::learner
