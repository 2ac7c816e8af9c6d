// treepo: a leaf against every group it belongs to, groups weighted by size (Li et al. 2025,
// TreePO, section 3.2), then batch whitening.
//
//   A_l = Σ_a |L(a)|·(R_l − V(a)) / Σ_a |L(a)|, a over the branching ancestors of l, the prompt
//   among them when it has several roots; then (A_l − μ_B)/(σ_B + ε) over all A of the step. σ off:
//   not whitened.
//
// A node with one child is the same group as that child and counted once.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. Prompt: |L| = 3, V = ⅓;
// r0: 2, ½. A(b0) = (3·⅔ + 2·½)/5 = ⅗, A(b1) = (−3·⅓ − 2·½)/5 = −⅖, A(r1) = −⅓. Whitened (ε = 0;
// mean −2/45, deviation √633/45): 29/√633, −16/√633, −13/√633.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.sigmas = {Sigma::batch, Sigma::off};
  return profile;
}

class TreePo final : public Estimator {
 public:
  explicit TreePo(const AdvantageOptions& given) : Estimator("treepo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    Credits credits;
    credits.normalised = true;
    for (size_t l = 0; l < view.leaves.size(); ++l) {
      double sum = 0, size = 0;
      auto compare = [&](std::span<const double> rewards) {
        sum += static_cast<double>(rewards.size()) * (view.rewards[l] - mean(rewards));
        size += static_cast<double>(rewards.size());
      };
      if (view.roots.size() > 1) compare(view.rewards);
      for (int a = view.leaves[l]; a >= 0; a = view.parent(a))
        if (view.children[static_cast<size_t>(a)].size() > 1) compare(view.rewards_below(a));
      credits.leaf.push_back(size == 0 ? 0 : sum / size);
    }
    return credits;
  }

  std::vector<Credits> credits(const Batch& batch) const override {
    std::vector<Credits> all = Estimator::credits(batch);
    if (sigma == Sigma::off) return all;
    std::vector<double> advantages;
    for (const Credits& one : all)
      advantages.insert(advantages.end(), one.leaf.begin(), one.leaf.end());
    const double centre = mean(advantages), divide_by = deviation(advantages) + options.epsilon;
    for (Credits& one : all)
      for (double& advantage : one.leaf) advantage = (advantage - centre) / divide_by;
    return all;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_treepo(const AdvantageOptions& options) {
  return std::make_unique<TreePo>(options);
}

}  // namespace espalier::tree
