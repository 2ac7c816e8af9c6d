// ucb: goes back to where the outcome is open and little was tried, one node at a time.
//
//   U(p) = p̂(1 − p̂) + exploration·H(p)·√(ln N / n(p)); p̂ = (Σ R + ½)/(n + 1) over the n(p) leaves
//   below p, N leaves of the prompt
//
// A prompt whose outcomes are all alike teaches nothing: it may use the whole budget of forks to
// find another; a mixed one stops at half of it. Looks at outcomes: no stopping time.
#include <algorithm>
#include <cmath>

#include "tree/fork_rules/back.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

class Ucb final : public BackRule {
 public:
  explicit Ucb(const ForkRuleOptions& options) : BackRule("ucb", options) {}

  LookBack look_back(const Tree& tree, int forks_in_tree) const override {
    LookBack result;
    const int budget =
        uniform_outcome(tree) ? options_.max_forks_per_tree : (options_.max_forks_per_tree + 1) / 2;
    if (forks_in_tree >= budget || options_.branches < 2) return result;
    const std::vector<Decision> all = decisions(tree);
    double leaves = 0;
    for (int leaf : tree.leaves())
      leaves += tree.nodes[static_cast<size_t>(leaf)].reward.has_value() ? 1 : 0;
    const Decision* best = nullptr;
    double most = 0;
    for (const Decision& at : all) {
      const double n = at.leaves, p = (at.mean_reward * n + 0.5) / (n + 1);
      const double tries = std::log(std::max(leaves, 1.0)) / std::max(n, 1.0);
      const double bound =
          std::clamp(p * (1 - p), 0.0, 0.25) + options_.exploration * at.entropy * std::sqrt(tries);
      if (best && bound <= most) continue;
      best = &at;
      most = bound;
    }
    if (best)
      result.forks.push_back(
          {best->node, options_.branches - 1, "", "bound " + std::to_string(most)});
    return result;
  }
};

}  // namespace

std::unique_ptr<ForkRule> make_ucb_rule(const ForkRuleOptions& options) {
  return std::make_unique<Ucb>(options);
}

}  // namespace espalier::tree
