// treerl: global plus local advantage of a step (Hou et al. 2025, TreeRL).
//
//   r_l = R_l − (1/(N−1))·Σ_{l'≠l} R_l';  V(n) = mean of r over L(n);  u(n) = V(n)/√|L(n)|
//   A(n) = [u(n) − u(p)] + u(n), p the step before n, the prompt for a root
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. r = 1, −½, −½; u(r0) =
// ¼/√2, u(b0) = 1, u(b1) = u(r1) = −½, u(prompt) = 0. A(r0) = ½/√2, A(r1) = −1, A(b0) = 2 − ¼/√2,
// A(b1) = −1 − ¼/√2; ω(r0) = ⅔, the others ⅓.
#include <cmath>

#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.values = {Value::leaf, Value::hierarchical};
  profile.baselines = {Baseline::loo, Baseline::mean};
  profile.steps = {Step::segment, Step::turn};
  return profile;
}

class TreeRl final : public Estimator {
 public:
  explicit TreeRl(const AdvantageOptions& given) : Estimator("treerl", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values =
        node_values(view, leaf_advantages(view, Value::leaf, baseline), value);
    const double prompt = values.prompt / std::sqrt(static_cast<double>(view.leaves.size()));
    auto scaled = [&](int n) {
      return n < 0 ? prompt : values.node[static_cast<size_t>(n)] / std::sqrt(view.leaf_count(n));
    };
    Credits credits;
    for (size_t i = 0; i < view.valid.size(); ++i) {
      const int n = view.valid[i] ? step_of(view, static_cast<int>(i)) : -1;
      credits.node.push_back(n < 0 ? 0 : (scaled(n) - scaled(view.parent(n))) + scaled(n));
    }
    return credits;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_treerl(const AdvantageOptions& options) {
  return std::make_unique<TreeRl>(options);
}

}  // namespace espalier::tree
