// diff_parent: what a step changed (Kazemnejad et al. 2024, VinePPO; Guo et al. 2025, SPO
// on trees).
//
//   A(n) = V(n) − V(p), p the step before n, the prompt for a root; sigma: parent divides by σ_p +
//   ε of the leaves below p, from 6 leaves on; fewer make no deviation, and σ_x is taken.
//
// A step is a run of turns without branching (step: turn takes every turn for itself: an only child
// then has A = 0). Every step is one sample: a shared prefix is trained on once.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. V(prompt) = ⅓, V(r0) =
// ½, V(r1) = 0: A = ⅙, −⅓; the branches: ½, −½. ω = ⅓ each.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.weights = {Weight::once, Weight::visitation, Weight::linear, Weight::sqrt};
  profile.values = {Value::leaf, Value::hierarchical, Value::entropy};
  profile.baselines = {Baseline::parent, Baseline::mean, Baseline::loo};
  profile.sigmas = {Sigma::off, Sigma::parent, Sigma::prompt, Sigma::batch};
  profile.steps = {Step::segment, Step::turn};
  profile.kappa = true;
  return profile;
}

class DiffParent final : public Estimator {
 public:
  explicit DiffParent(const AdvantageOptions& given) : Estimator("diff_parent", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values = node_values(view, view.rewards, value);
    return {.node = sibling_advantages(view, values)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_diff_parent(const AdvantageOptions& options) {
  return std::make_unique<DiffParent>(options);
}

}  // namespace espalier::tree
