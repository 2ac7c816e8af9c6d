// rloo: leave-one-out over the prompt's leaves (Kool et al. 2019; Ahmadian et al. 2024).
//
//   A_l = R_l − (1/(N−1))·Σ_{l'≠l} R_l', constant over the path of leaf l; N leaves of the prompt.
//
// Leaves behind one fork are no independent samples: on branched trees the other leaves' mean
// depends on the shared prefix. With value: hierarchical the mean is over the other roots instead.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. N = 3.
//   A = 1, −½, −½. S⁺(r0) = ⅓, S⁻(r0) = −⅙; r1: 0, −⅙; b0: ⅓, 0; b1: 0, −⅙.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.values = {Value::leaf, Value::hierarchical};
  profile.baselines = {Baseline::loo, Baseline::mean, Baseline::parent};
  return profile;
}

class Rloo final : public Estimator {
 public:
  explicit Rloo(const AdvantageOptions& given) : Estimator("rloo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    return {.leaf = leaf_advantages(view, value, baseline)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_rloo(const AdvantageOptions& options) {
  return std::make_unique<Rloo>(options);
}

}  // namespace espalier::tree
