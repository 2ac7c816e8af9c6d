// dr_grpo: the group's mean, no deviation (Liu et al. 2025, Dr. GRPO).
//
//   A_l = R_l − V_x, constant over the path of leaf l; V_x: mean of the prompt's N leaf rewards.
//
// The other half of the method, a constant divisor instead of each response's length, is the
// loss's: learner.loss_agg_mode = seq-mean-token-sum.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. N = 3, V_x = ⅓: A = ⅔,
// −⅓, −⅓. S⁺(r0) = 2/9, S⁻(r0) = −1/9; r1: 0, −1/9.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.values = {Value::leaf, Value::hierarchical};
  profile.baselines = {Baseline::mean, Baseline::loo, Baseline::parent};
  profile.sigmas = {Sigma::off};
  return profile;
}

class DrGrpo final : public Estimator {
 public:
  explicit DrGrpo(const AdvantageOptions& given) : Estimator("dr_grpo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    return {.leaf = leaf_advantages(view, value, baseline)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_dr_grpo(const AdvantageOptions& options) {
  return std::make_unique<DrGrpo>(options);
}

}  // namespace espalier::tree
