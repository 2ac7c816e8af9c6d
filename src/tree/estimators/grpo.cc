// grpo: the group's mean and deviation (Shao et al. 2024, DeepSeekMath, section 4.1.2).
//
//   A_l = (R_l − V_x) / (σ_x + ε), constant over the path of leaf l; V_x, σ_x: mean and sample
//   standard deviation (N − 1) of the prompt's N leaf rewards.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. N = 3, V_x = ⅓,
// σ_x = 1/√3, ε = 0: A = 2/√3, −1/√3, −1/√3. S⁺(r0) = 2/(3√3), S⁻(r0) = −1/(3√3); r1: 0,
// −1/(3√3).
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.values = {Value::leaf, Value::hierarchical};
  profile.baselines = {Baseline::mean, Baseline::loo, Baseline::parent};
  profile.sigmas = {Sigma::prompt, Sigma::off, Sigma::batch};
  return profile;
}

class Grpo final : public Estimator {
 public:
  explicit Grpo(const AdvantageOptions& given) : Estimator("grpo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    return {.leaf = leaf_advantages(view, value, baseline)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_grpo(const AdvantageOptions& options) {
  return std::make_unique<Grpo>(options);
}

}  // namespace espalier::tree
