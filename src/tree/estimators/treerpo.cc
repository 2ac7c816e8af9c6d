// treerpo: a step against the mean of its siblings (Yang et al. 2025, TreeRPO).
//
//   A(n) = V_h(n) − mean of V_h over n and its siblings
//
// A step is a run of turns without branching (step: turn takes every turn for itself: an only child
// then has A = 0). Every step is one sample: a shared prefix is trained on once.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. V_h(r0) = ½, V_h(r1) =
// 0: A = ¼, −¼; the branches: ½, −½. ω = ⅓ each.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.weights = {Weight::once, Weight::visitation, Weight::linear, Weight::sqrt};
  profile.values = {Value::hierarchical, Value::leaf, Value::entropy};
  profile.baselines = {Baseline::mean, Baseline::loo, Baseline::parent};
  profile.steps = {Step::segment, Step::turn};
  profile.kappa = true;
  return profile;
}

class TreeRpo final : public Estimator {
 public:
  explicit TreeRpo(const AdvantageOptions& given) : Estimator("treerpo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values = node_values(view, view.rewards, value);
    return {.node = sibling_advantages(view, values)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_treerpo(const AdvantageOptions& options) {
  return std::make_unique<TreeRpo>(options);
}

}  // namespace espalier::tree
