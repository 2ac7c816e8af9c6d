#include "tree/shaping.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "tree/estimators/tree_view.h"

namespace espalier::tree {
namespace {

int64_t action_tokens(const Tree& tree, int leaf) {
  int64_t tokens = 0;
  for (int node = leaf; node >= 0; node = tree.nodes[static_cast<size_t>(node)].parent)
    tokens += static_cast<int64_t>(tree.nodes[static_cast<size_t>(node)].action.size());
  return tokens;
}

bool all_equal(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [&](double v) { return v == values.front(); });
}

bool without_credit(const Node& node) { return node.s_plus == 0 && node.s_minus == 0; }

/// Filters the nodes whose branching has no spread; returns how many branchings have none.
int filter_branchings(const TreeView& view, Tree& tree) {
  const NodeValues values = node_values(view, view.rewards, Value::hierarchical);
  std::vector<uint8_t> flat(tree.nodes.size(), 0);
  int count = 0;
  for (const std::vector<int>& group : view.groups()) {
    std::vector<double> worth;
    for (int member : group) worth.push_back(values.node[static_cast<size_t>(member)]);
    if (worth.size() < 2 || !all_equal(worth)) continue;
    ++count;
    for (int member : group) flat[static_cast<size_t>(member)] = 1;
  }
  for (size_t n = 0; n < tree.nodes.size(); ++n) {
    const int head = view.valid[n] ? view.head[n] : -1;
    if (head >= 0 && flat[static_cast<size_t>(head)] && without_credit(tree.nodes[n]))
      tree.nodes[n].filtered = true;
  }
  return count;
}

void check_filter(const std::string& filter) {
  if (filter == "none" || filter == "prompt" || filter == "fork") return;
  throw common::ConfigError("algorithm.filter_groups: got '" + filter +
                            "'; allowed: none, prompt, fork");
}

}  // namespace

double overlong_reward(int64_t tokens, const ShapingOptions& options) {
  if (options.overlong_length <= 0) return 0;
  const double over =
      static_cast<double>(tokens - (options.overlong_length - options.overlong_buffer));
  if (over <= 0) return 0;
  const double share = options.overlong_buffer > 0 ? over / options.overlong_buffer : 1.0;
  return -options.overlong_penalty * std::min(share, 1.0);
}

ShapingCounts estimate_shaped(const AdvantageEstimator& estimator, std::span<Tree> trees,
                              const ShapingOptions& options) {
  check_filter(options.filter_groups);
  ShapingCounts counts;
  std::vector<std::pair<Node*, double>> recorded;
  for (Tree& tree : trees) {
    for (Node& node : tree.nodes) node.filtered = false;
    for (int leaf : tree.leaves()) {
      Node& node = tree.nodes[static_cast<size_t>(leaf)];
      const double penalty = overlong_reward(action_tokens(tree, leaf), options);
      if (!node.reward || penalty == 0) continue;
      recorded.emplace_back(&node, *node.reward);
      *node.reward += penalty;
      ++counts.leaves_penalised;
    }
  }
  estimator.estimate(trees);
  for (Tree& tree : trees) {
    if (options.filter_groups == "none") break;
    const TreeView view(tree, 1.0);
    if (view.rewards.empty()) continue;
    if (all_equal(view.rewards)) {
      ++counts.prompts_filtered;
      for (Node& node : tree.nodes) node.filtered = true;
    } else if (options.filter_groups == "fork") {
      counts.groups_filtered += filter_branchings(view, tree);
    }
  }
  for (const auto& [node, reward] : recorded) node->reward = reward;
  return counts;
}

bool is_filtered(const Tree& tree) {
  return std::all_of(tree.nodes.begin(), tree.nodes.end(),
                     [](const Node& node) { return node.filtered; });
}

}  // namespace espalier::tree
