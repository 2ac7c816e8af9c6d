// pivot: goes back to where failures turned bad.
//
//   Of a failed leaf (reward below ½), the pivot is the most uncertain decision between it and the
//   deepest node above it below which something succeeded (the prompt, where nothing did).
//   Failed leaves in order, one fork each, no decision twice, while the budget lasts.
//
// Chosen because of how the episode ended: no stopping time, and the failed child is no fair draw.
#include <set>

#include "tree/fork_rules/back.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

class Pivot final : public BackRule {
 public:
  explicit Pivot(const ForkRuleOptions& options) : BackRule("pivot", options) {}

  LookBack look_back(const Tree& tree, int forks_in_tree) const override {
    LookBack result;
    if (options_.branches < 2) return result;
    std::vector<Decision> at(tree.nodes.size());
    for (const Decision& decision : decisions(tree))
      at[static_cast<size_t>(decision.node)] = decision;
    std::vector<bool> succeeded(tree.nodes.size(), false);
    for (size_t i = tree.nodes.size(); i-- > 0;) {
      const Node& node = tree.nodes[i];
      if (node.reward && !failed(node)) succeeded[i] = true;
      if (node.parent >= 0 && succeeded[i]) succeeded[static_cast<size_t>(node.parent)] = true;
    }
    std::set<int> taken;
    for (int leaf : tree.leaves()) {
      if (forks_in_tree + static_cast<int>(taken.size()) >= options_.max_forks_per_tree) break;
      if (!failed(tree.nodes[static_cast<size_t>(leaf)])) continue;
      int pivot = -1;
      for (int p = tree.nodes[static_cast<size_t>(leaf)].parent; p >= 0;
           p = tree.nodes[static_cast<size_t>(p)].parent) {
        const Decision& decision = at[static_cast<size_t>(p)];
        const bool candidate = decision.children == 1 && !taken.contains(p);
        if (candidate && (pivot < 0 || decision.entropy > at[static_cast<size_t>(pivot)].entropy))
          pivot = p;
        if (succeeded[static_cast<size_t>(p)]) break;
      }
      if (pivot < 0) continue;
      taken.insert(pivot);
      result.forks.push_back({pivot, options_.branches - 1, "",
                              "failed leaf " + tree.nodes[static_cast<size_t>(leaf)].path});
    }
    return result;
  }
};

}  // namespace

std::unique_ptr<ForkRule> make_pivot_rule(const ForkRuleOptions& options) {
  return std::make_unique<Pivot>(options);
}

}  // namespace espalier::tree
