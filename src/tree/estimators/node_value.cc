// node_value: the value of the node itself, of z-scored leaves (TreeAdv 2026; Zong et al. 2026,
// AT²PO).
//
//   z_l = (R_l − V_x)/(σ_x + ε);  A(n) = V(n) over z: the mean over L(n) (TreeAdv), or with value:
//   entropy Σ_{c∈C(n)} softmax_c(H_c)·V(c), H_c = −mean log-prob of c's action (AT²PO)
//
// Every node is one sample: a shared prefix is trained on once.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. V_x = ⅓, σ_x = 1/√3,
// ε = 0: z = 2/√3, −1/√3, −1/√3; A(r0) = 1/(2√3). ω = ⅓ each.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.weights = {Weight::once, Weight::visitation, Weight::linear, Weight::sqrt};
  profile.values = {Value::leaf, Value::hierarchical, Value::entropy};
  profile.sigmas = {Sigma::prompt, Sigma::off, Sigma::batch};
  return profile;
}

class NodeValue final : public Estimator {
 public:
  explicit NodeValue(const AdvantageOptions& given) : Estimator("node_value", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch&) const override {
    const NodeValues values = node_values(view, view.rewards, value);
    const double centre = mean(view.rewards);
    Credits credits;
    for (double worth : values.node) credits.node.push_back(worth - centre);
    return credits;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_node_value(const AdvantageOptions& options) {
  return std::make_unique<NodeValue>(options);
}

}  // namespace espalier::tree
