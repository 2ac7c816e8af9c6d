// gigpo: trajectories against each other, and steps taken from the same environment state (Feng et
// al. 2025, GiGPO).
//
//   A_l(n) = (A^E_l + ω·A^S(n)) / (σ_x + ε)
//   A^E_l = R_l − V_x;  A^S(n) = V(n) − mean of V over the nodes whose action was taken in the
//   state that n's was; ω = step_weight. σ of a state's few nodes is never used.
//
// A state is named by the hash of the snapshot after the parent; without one, children of one
// parent share a state, as the roots do. V(n) counts γ from n on.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0; ω = 1, σ off. A^E = ⅔,
// −⅓, −⅓; A^S: r0 ½ − ¼ = ¼, r1 −¼, b0 ½, b1 −½. A(b0) = 7/6, A(b1) = −5/6, A(r1) = −7/12; r0
// meets 11/12 and −1/12: A(r0) = 5/12, S⁺ = 11/36, S⁻ = −1/36.
#include <cmath>
#include <map>

#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

std::string state_before(const Tree& tree, int n) {
  const int parent = tree.nodes[static_cast<size_t>(n)].parent;
  if (parent < 0) return "prompt";
  const std::string& snapshot = tree.nodes[static_cast<size_t>(parent)].snapshot;
  return snapshot.empty() ? "node " + std::to_string(parent) : "snapshot " + snapshot;
}

Profile profile() {
  Profile profile;
  profile.values = {Value::leaf, Value::hierarchical};
  profile.baselines = {Baseline::mean, Baseline::loo};
  profile.sigmas = {Sigma::prompt, Sigma::off, Sigma::batch};
  return profile;
}

class GiGpo final : public Estimator {
 public:
  explicit GiGpo(const AdvantageOptions& given) : Estimator("gigpo", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values = node_values(view, view.rewards, value);
    std::map<std::string, std::vector<int>> states;
    for (size_t i = 0; i < view.valid.size(); ++i)
      if (view.valid[i]) states[state_before(*view.tree, static_cast<int>(i))].push_back(i);
    Credits credits;
    credits.leaf = leaf_advantages(view, value, baseline);
    credits.node.assign(view.valid.size(), 0.0);
    for (const auto& [state, nodes] : states) {
      std::vector<double> earned;  // as seen from the step itself: its turn may differ
      for (int n : nodes) earned.push_back(values.node[n] / discount(view, n));
      const double centre = mean(earned);
      for (size_t i = 0; i < nodes.size(); ++i) {
        const double off =
            baseline == Baseline::loo ? leave_one_out(earned, i) : earned[i] - centre;
        credits.node[nodes[i]] = options.step_weight * discount(view, nodes[i]) * off;
      }
    }
    return credits;
  }

  double discount(const TreeView& view, int n) const {
    return std::pow(options.gamma, view.tree->nodes[static_cast<size_t>(n)].turn);
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_gigpo(const AdvantageOptions& options) {
  return std::make_unique<GiGpo>(options);
}

}  // namespace espalier::tree
