// shepherd: a branch is compared where it branched, the prefix by its own root alone.
//
//   before the fork turn: R_root − mean over the G roots' R_root
//   from it on, member m of {the root's own continuation, its branches}: R_m − mean over the
//   members
//
// R of a subtree is the reward of its first leaf: the one reached when every fork is left by its
// first valid child, which is how the root itself went on. In forks within a branch the branch is
// the root. A shared prefix is trained on once.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. R of r0 is 1: A(r0) = 1
// − ½ = ½, A(r1) = −½; A(b0) = 1 − ½ = ½, A(b1) = −½. ω = ⅓ each.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.weights = {Weight::once, Weight::visitation, Weight::linear, Weight::sqrt};
  profile.baselines = {Baseline::mean, Baseline::loo};
  profile.kappa = true;
  profile.credits_prefix = false;
  return profile;
}

class Shepherd final : public Estimator {
 public:
  explicit Shepherd(const AdvantageOptions& given) : Estimator("shepherd", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    NodeValues values;
    for (size_t i = 0; i < view.valid.size(); ++i)
      values.node.push_back(view.valid[i] ? view.rewards[static_cast<size_t>(view.first_leaf[i])]
                                          : 0);
    return {.node = sibling_advantages(view, values)};
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_shepherd(const AdvantageOptions& options) {
  return std::make_unique<Shepherd>(options);
}

}  // namespace espalier::tree
