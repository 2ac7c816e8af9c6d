// tree_loo: leave-one-out at the nearest branching above, weighted by visitation.
//
//   b(n) = nearest ancestor-or-self of n whose parent has m ≥ 2 valid children (the roots are the
//   prompt's children)
//   A(n) = V_h(b) − (1/(m−1))·Σ_{siblings c≠b} V_h(c)
//   ω(n) = (1/G)·Π_{ancestors a of n} 1/|C(a)|
//
// Where the fork rule is a stopping time, Σ ω·A·∇log π is an unbiased gradient: siblings are
// exchangeable, so V_h(b) is a fair return of b, and the baseline does not depend on b's action.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. V_h(r0) = ½, V_h(r1) =
// 0; A(r0) = ½, A(r1) = −½; the branches: 1 − 0 = 1 and 0 − 1 = −1. ω: roots ½, branches ½·½ = ¼.
// S⁺(r0) = ¼, S⁻(r1) = −¼, S⁺(b0) = ¼, S⁻(b1) = −¼.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.weights = {Weight::visitation, Weight::linear, Weight::sqrt, Weight::once};
  profile.values = {Value::hierarchical, Value::leaf, Value::entropy};
  profile.baselines = {Baseline::loo, Baseline::mean, Baseline::parent};
  profile.kappa = true;
  return profile;
}

class TreeLoo final : public Estimator {
 public:
  explicit TreeLoo(const AdvantageOptions& given) : Estimator("tree_loo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values = node_values(view, view.rewards, value);
    return {.node = sibling_advantages(view, values)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_tree_loo(const AdvantageOptions& options) {
  return std::make_unique<TreeLoo>(options);
}

}  // namespace espalier::tree
