// tree_grpo: normalised within the prompt and within the tree (Ji et al. 2025, Tree-GRPO).
//
//   A_l = (R_l − V_x)/(σ_x + ε) + (R_l − V_T)/(σ_T + ε), constant over the path of leaf l.
//   x: all leaves of the prompt; T: the leaves below l's root episode. A root with one leaf has no
//   second term.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. V_x = ⅓, σ_x = 1/√3;
// r0: V_T = ½, σ_T = 1/√2. ε = 0: A = 2/√3 + 1/√2, −1/√3 − 1/√2, −1/√3; A(r0) = 1/(2√3).
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.sigmas = {Sigma::prompt, Sigma::off, Sigma::batch};
  return profile;
}

class TreeGrpo final : public Estimator {
 public:
  explicit TreeGrpo(const AdvantageOptions& given) : Estimator("tree_grpo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch& batch) const override {
    const double centre = mean(view.rewards), common = divisor(view, batch, 0);
    Credits credits;
    credits.normalised = true;
    for (int root : view.roots) {
      const auto rewards = view.rewards_below(root);
      const double within = mean(rewards);
      const double divide_by =
          sigma == Sigma::prompt ? deviation(rewards) + options.epsilon : common;
      for (double reward : rewards) {
        const double off = reward - within;
        credits.leaf.push_back((reward - centre) / common + (off == 0 ? 0 : off / divide_by));
      }
    }
    return credits;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_tree_grpo(const AdvantageOptions& options) {
  return std::make_unique<TreeGrpo>(options);
}

}  // namespace espalier::tree
