#include "tree/tree_values.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace espalier::tree {
namespace {

double mean_of(const std::vector<int>& nodes, const std::vector<double>& value) {
  std::vector<double> values;
  for (int node : nodes) values.push_back(value[node]);
  return mean(values);
}

}  // namespace

TreeValues tree_values(const Tree& tree) {
  const size_t count = tree.nodes.size();
  TreeValues result;
  result.valid.assign(count, 0);
  result.value.assign(count, 0.0);
  result.children.resize(count);
  const auto children = tree.children();
  for (size_t i = count; i-- > 0;) {
    const Node& node = tree.nodes[i];
    ESPALIER_CHECK(node.parent < static_cast<int>(i), "tree is not in canonical order");
    if (children[i].empty()) {
      result.valid[i] = node.reward.has_value();
      if (node.reward) result.value[i] = *node.reward;
      continue;
    }
    for (int child : children[i])
      if (result.valid[child]) result.children[i].push_back(child);
    result.valid[i] = !result.children[i].empty();
    if (result.valid[i]) result.value[i] = mean_of(result.children[i], result.value);
  }
  for (size_t i = 0; i < count; ++i) {
    if (!result.valid[i]) continue;
    if (tree.nodes[i].parent < 0) result.roots.push_back(static_cast<int>(i));
    if (!result.children[i].empty()) continue;
    result.leaves.push_back(static_cast<int>(i));
    result.rewards.push_back(result.value[i]);
  }
  return result;
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0.0;
  double sum = 0.0;  // of differences from the first: equal values keep their exact value
  for (double value : values) sum += value - values.front();
  return values.front() + sum / static_cast<double>(values.size());
}

double leave_one_out(const std::vector<double>& values, size_t i) {
  if (values.size() < 2) return 0.0;
  double sum = 0.0;
  for (size_t c = 0; c < values.size(); ++c)
    if (c != i) sum += values[i] - values[c];
  return sum / static_cast<double>(values.size() - 1);
}

double sigma(const std::vector<double>& rewards) {
  if (rewards.size() < 2) return 0.0;
  const Eigen::Map<const Eigen::ArrayXd> all(rewards.data(),
                                             static_cast<Eigen::Index>(rewards.size()));
  return std::sqrt((all - mean(rewards)).square().sum() / static_cast<double>(rewards.size() - 1));
}

double divisor(const TreeValues& values, const AdvantageOptions& options) {
  return options.norm_adv_by_std ? sigma(values.rewards) + options.epsilon : 1.0;
}

void reset_estimates(Tree& tree, const TreeValues& values) {
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    Node& node = tree.nodes[i];
    node.value = values.value[i];
    node.advantage = node.weight = node.s_plus = node.s_minus = 0.0;
  }
}

void spread_leaf_advantages(Tree& tree, const TreeValues& values,
                            const std::vector<double>& advantages) {
  reset_estimates(tree, values);
  const double leaf_weight = 1.0 / static_cast<double>(values.leaves.size());
  std::vector<double> sum(tree.nodes.size(), 0.0);
  std::vector<int> below(tree.nodes.size(), 0);
  for (size_t l = 0; l < values.leaves.size(); ++l) {
    Node& leaf = tree.nodes[values.leaves[l]];
    leaf.s_plus = std::max(leaf_weight * advantages[l], 0.0);
    leaf.s_minus = std::min(leaf_weight * advantages[l], 0.0);
    sum[values.leaves[l]] = advantages[l];
    below[values.leaves[l]] = 1;
  }
  for (size_t i = tree.nodes.size(); i-- > 0;) {
    Node& node = tree.nodes[i];
    if (!values.valid[i]) continue;
    for (int child : values.children[i]) {
      node.s_plus += tree.nodes[child].s_plus;
      node.s_minus += tree.nodes[child].s_minus;
      sum[i] += sum[child];
      below[i] += below[child];
    }
    node.advantage = sum[i] / below[i];
    node.weight = below[i] / static_cast<double>(values.leaves.size());
  }
}

}  // namespace espalier::tree
