// tree_loo: leave-one-out at the nearest branching above, weighted by visitation.
//
//   b(n) = nearest ancestor-or-self of n whose parent has m ≥ 2 valid children (roots: the prompt's
//   children) A(n) = V_h(b) − (1/(m−1))·Σ_{siblings c≠b} V_h(c) ω(n) = (1/G)·Π_{ancestors a of n}
//   1/|C(a)| S⁺(n) = max(ω·A, 0), S⁻(n) = min(ω·A, 0)
//
// Example (tests/tree/advantage_test.cc): two roots; r0 branches in two with rewards 1 and 0, r1
// earns 0.
//   V_h(r0) = ½, V_h(r1) = 0; A(r0) = ½, A(r1) = −½; the branches: A = 1 − 0 = 1 and 0 − 1 = −1.
//   ω: roots ½ each, branches ½·½ = ¼. S⁺(r0) = ¼, S⁻(r1) = −¼, S⁺(b0) = ¼, S⁻(b1) = −¼.
#include <algorithm>

#include "tree/estimators/factories.h"
#include "tree/tree_values.h"

namespace espalier::tree {
namespace {

class TreeLoo final : public AdvantageEstimator {
 public:
  explicit TreeLoo(const AdvantageOptions& options) : options_(options) {}
  std::string name() const override { return "tree_loo"; }
  bool credits_prefix() const override { return true; }

  void estimate(Tree& tree) const override {
    const TreeValues values = tree_values(tree);
    reset_estimates(tree, values);
    const double divide_by = divisor(values, options_);
    estimate_siblings(tree, values, values.roots, divide_by);
    for (size_t i = 0; i < tree.nodes.size(); ++i)
      estimate_siblings(tree, values, values.children[i], divide_by);
  }

 private:
  /// Parents come before their children, so an only child finds its parent's advantage ready: same
  /// b(n).
  static void estimate_siblings(Tree& tree, const TreeValues& values,
                                const std::vector<int>& siblings, double divide_by) {
    std::vector<double> earned;
    for (int node : siblings) earned.push_back(values.value[node]);
    for (size_t i = 0; i < siblings.size(); ++i) {
      Node& node = tree.nodes[siblings[i]];
      const Node* parent = node.parent < 0 ? nullptr : &tree.nodes[node.parent];
      node.weight = (parent ? parent->weight : 1.0) / static_cast<double>(siblings.size());
      if (siblings.size() > 1) {
        node.advantage = leave_one_out(earned, i) / divide_by;
      } else if (parent) {
        node.advantage = parent->advantage;
      }
      node.s_plus = std::max(node.weight * node.advantage, 0.0);
      node.s_minus = std::min(node.weight * node.advantage, 0.0);
    }
  }

  AdvantageOptions options_;
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_tree_loo(const AdvantageOptions& options) {
  return std::make_unique<TreeLoo>(options);
}

}  // namespace espalier::tree
