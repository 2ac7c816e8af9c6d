#include "app/tree_metrics.h"

#include <algorithm>
#include <limits>
#include <string>

namespace espalier::app {

namespace {

/// Mean, least and greatest of what was added.
struct Summary {
  double sum = 0, least = std::numeric_limits<double>::infinity(), greatest = -least;
  size_t count = 0;
  void add(double value) {
    sum += value;
    least = std::min(least, value);
    greatest = std::max(greatest, value);
    ++count;
  }
  double mean() const { return count == 0 ? 0 : sum / static_cast<double>(count); }
  void put(common::Metrics& metrics, const std::string& name) const {
    if (count == 0) return;
    metrics[name + "/mean"] = mean();
    metrics[name + "/min"] = least;
    metrics[name + "/max"] = greatest;
  }
};

/// Rewards below every node, in one pass from the leaves up (children stand after their parents).
struct Below {
  std::vector<size_t> leaves, successes, rewarded;
};

Below count_below(const tree::Tree& tree) {
  const size_t size = tree.nodes.size();
  Below below{std::vector<size_t>(size), std::vector<size_t>(size), std::vector<size_t>(size)};
  for (size_t i = size; i-- > 0;) {
    const tree::Node& node = tree.nodes[i];
    if (node.outcome != tree::Outcome::none) ++below.leaves[i];
    if (node.reward) {
      ++below.rewarded[i];
      if (*node.reward > 0) ++below.successes[i];
    }
    if (node.parent < 0) continue;
    const size_t parent = static_cast<size_t>(node.parent);
    below.leaves[parent] += below.leaves[i];
    below.successes[parent] += below.successes[i];
    below.rewarded[parent] += below.rewarded[i];
  }
  return below;
}

struct Totals {
  Summary score, advantage, length, turns, sibling_variance;
  size_t cut = 0, roots = 0, leaves = 0, infra_failed = 0, forks = 0, mixed_forks = 0;
  size_t packed_tokens = 0, linear_tokens = 0, mixed_trees = 0;
};

void count_forks(const tree::Tree& tree, const Below& below, Totals& totals) {
  for (const std::vector<int>& children : tree.children()) {
    if (children.size() < 2) continue;
    ++totals.forks;
    size_t successes = 0, rewarded = 0;
    Summary values;
    for (int child : children) {
      successes += below.successes[static_cast<size_t>(child)];
      rewarded += below.rewarded[static_cast<size_t>(child)];
      values.add(tree.nodes[static_cast<size_t>(child)].value);
    }
    if (successes > 0 && successes < rewarded) ++totals.mixed_forks;
    double variance = 0;
    for (int child : children) {
      const double distance = tree.nodes[static_cast<size_t>(child)].value - values.mean();
      variance += distance * distance;
    }
    totals.sibling_variance.add(variance / static_cast<double>(children.size() - 1));
  }
}

void count_tree(const tree::Tree& tree, int max_response_length, Totals& totals) {
  const Below below = count_below(tree);
  totals.packed_tokens += tree.prompt_tokens.size();
  Summary rewards;
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const tree::Node& node = tree.nodes[i];
    totals.length.add(static_cast<double>(node.action.size()));
    if (static_cast<int>(node.action.size()) >= max_response_length) ++totals.cut;
    totals.advantage.add(node.advantage);
    const size_t span = node.action.size() + node.prompt_delta.size();
    totals.packed_tokens += span;
    totals.linear_tokens += span * below.leaves[i];
    if (node.parent < 0) ++totals.roots;
    if (node.parent < 0) totals.linear_tokens += tree.prompt_tokens.size() * below.leaves[i];
    if (node.outcome == tree::Outcome::none) continue;
    ++totals.leaves;
    totals.turns.add(node.turn + 1);
    if (node.outcome == tree::Outcome::infra_failed) ++totals.infra_failed;
    if (node.reward) {
      totals.score.add(*node.reward);
      rewards.add(*node.reward);
    }
  }
  if (rewards.count > 0 && rewards.least < rewards.greatest) ++totals.mixed_trees;
  count_forks(tree, below, totals);
}

double ratio(double a, double b) { return b == 0 ? 0 : a / b; }

}  // namespace

common::Metrics tree_metrics(const std::vector<tree::Tree>& trees, int max_response_length) {
  Totals totals;
  for (const tree::Tree& tree : trees) count_tree(tree, max_response_length, totals);
  common::Metrics metrics;
  totals.score.put(metrics, "critic/score");
  totals.advantage.put(metrics, "critic/advantages");
  const double trees_count = static_cast<double>(trees.size());
  metrics["response_length/mean"] = totals.length.mean();
  metrics["response_length/clip_ratio"] =
      ratio(static_cast<double>(totals.cut), static_cast<double>(totals.length.count));
  metrics["num_turns/mean"] = totals.turns.mean();
  metrics["passrate/pass@1"] = totals.score.mean();
  metrics["tree/branch_factor"] =
      ratio(static_cast<double>(totals.leaves), static_cast<double>(totals.roots));
  metrics["tree/leaves"] = ratio(static_cast<double>(totals.leaves), trees_count);
  metrics["tree/forks"] = ratio(static_cast<double>(totals.forks), trees_count);
  metrics["tree/mixed_rate"] = ratio(static_cast<double>(totals.mixed_trees), trees_count);
  metrics["tree/mixed_fork_rate"] =
      ratio(static_cast<double>(totals.mixed_forks), static_cast<double>(totals.forks));
  metrics["tree/sibling_advantage_var"] = totals.sibling_variance.mean();
  metrics["tree/token_ratio"] =
      ratio(static_cast<double>(totals.linear_tokens), static_cast<double>(totals.packed_tokens));
  metrics["env/infra_failed_rate"] =
      ratio(static_cast<double>(totals.infra_failed), static_cast<double>(totals.leaves));
  return metrics;
}

common::Metrics staleness_metrics(const std::vector<tree::Tree>& trees, uint64_t version) {
  Summary behind;
  for (const tree::Tree& tree : trees)
    for (const tree::Node& node : tree.nodes)
      if (!node.action.empty() && !node.injected)
        behind.add(static_cast<double>(version) - static_cast<double>(node.policy_version));
  common::Metrics metrics;
  behind.put(metrics, "training/staleness");
  return metrics;
}

common::Metrics budget_metrics(const tree::Ledger& ledger) {
  common::Metrics metrics;
  for (const auto& [unit, value] : ledger.units()) metrics["budget/" + unit] = value;
  return metrics;
}

common::Metrics shaping_metrics(const tree::ShapingCounts& counts,
                                const tree::ShapingOptions& options) {
  common::Metrics metrics;
  if (options.filter_groups != "none") metrics["tree/filtered_prompts"] = counts.prompts_filtered;
  if (options.filter_groups == "fork") metrics["tree/filtered_forks"] = counts.groups_filtered;
  if (options.overlong_length > 0) metrics["tree/overlong_leaves"] = counts.leaves_penalised;
  return metrics;
}

uint64_t attended_tokens(const std::vector<tree::Tree>& trees, bool linear) {
  uint64_t sum = 0;
  auto add = [&sum](uint64_t before, uint64_t span, uint64_t copies) {
    if (span > 0) sum += copies * (span * before + span * (span - 1) / 2);
  };
  for (const tree::Tree& tree : trees) {
    const Below below = count_below(tree);
    std::vector<uint64_t> end(tree.nodes.size());
    uint64_t all_leaves = 0;
    for (size_t i = 0; i < tree.nodes.size(); ++i) {
      const tree::Node& node = tree.nodes[i];
      const uint64_t before =
          node.parent < 0 ? tree.prompt_tokens.size() : end[static_cast<size_t>(node.parent)];
      const uint64_t span = node.action.size() + node.prompt_delta.size();
      if (node.parent < 0) all_leaves += below.leaves[i];
      add(before, span, linear ? below.leaves[i] : 1);
      end[i] = before + span;
    }
    add(0, tree.prompt_tokens.size(), linear ? all_leaves : 1);
  }
  return sum;
}

}  // namespace espalier::app
