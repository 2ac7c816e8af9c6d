// topk: goes back to the most uncertain decisions of a finished tree, in two rounds (as AT²PO, Zong
// et al. 2026, expands its trees).
//
//   score(p) = H(p) − visit_penalty·(children of p − 1); each round takes the best half of the
//   tree's budget of forks and adds K − 1 children to each
//
// It has seen the whole episode before it chooses a turn of it: no stopping time, and the children
// that are there are not exchangeable with those it adds.
#include <algorithm>

#include "tree/fork_rules/back.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

class TopK final : public BackRule {
 public:
  explicit TopK(const ForkRuleOptions& options) : BackRule("topk", options) {}

  LookBack look_back(const Tree& tree, int forks_in_tree) const override {
    LookBack result;
    const int left = options_.max_forks_per_tree - forks_in_tree;
    const int round = std::min(left, (options_.max_forks_per_tree + 1) / 2);
    if (round <= 0 || options_.branches < 2) return result;
    std::vector<Decision> all = decisions(tree);
    auto score = [this](const Decision& at) {
      return at.entropy - options_.visit_penalty * (at.children - 1);
    };
    std::stable_sort(all.begin(), all.end(),
                     [&](const Decision& a, const Decision& b) { return score(a) > score(b); });
    for (const Decision& at : all) {
      if (static_cast<int>(result.forks.size()) == round) break;
      result.forks.push_back(
          {at.node, options_.branches - 1, "",
           "entropy " + std::to_string(at.entropy) + ", children " + std::to_string(at.children)});
    }
    return result;
  }
};

}  // namespace

std::unique_ptr<ForkRule> make_topk_rule(const ForkRuleOptions& options) {
  return std::make_unique<TopK>(options);
}

}  // namespace espalier::tree
