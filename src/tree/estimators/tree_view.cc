#include "tree/estimators/tree_view.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace espalier::tree {
namespace {

std::vector<double> pick(const std::vector<int>& nodes, const std::vector<double>& value) {
  std::vector<double> values;
  for (int node : nodes) values.push_back(value[static_cast<size_t>(node)]);
  return values;
}

/// −mean log-prob of the action: the entropy of a turn, as sampled.
double surprise(const Node& node) {
  double sum = 0;
  for (float log_prob : node.log_probs) sum -= log_prob;
  return node.log_probs.empty() ? 0 : sum / static_cast<double>(node.log_probs.size());
}

double entropy_mean(const TreeView& view, const std::vector<int>& nodes,
                    const std::vector<double>& value) {
  std::vector<double> weights;
  for (int node : nodes) weights.push_back(surprise(view.tree->nodes[static_cast<size_t>(node)]));
  const double most = *std::max_element(weights.begin(), weights.end());
  const double first = value[static_cast<size_t>(nodes.front())];
  double sum = 0, all = 0;  // differences from the first: equal values keep their exact value
  for (size_t i = 0; i < nodes.size(); ++i) {
    const double weight = std::exp(weights[i] - most);
    sum += weight * (value[static_cast<size_t>(nodes[i])] - first);
    all += weight;
  }
  return first + sum / all;
}

}  // namespace

TreeView::TreeView(const Tree& source, double gamma) : tree(&source) {
  const size_t count = source.nodes.size();
  valid.assign(count, 0);
  children.resize(count);
  first_leaf.assign(count, 0);
  end_leaf.assign(count, 0);
  head.assign(count, -1);
  const auto all_children = source.children();
  for (size_t i = count; i-- > 0;) {
    const Node& node = source.nodes[i];
    ESPALIER_CHECK(node.parent < static_cast<int>(i), "tree is not in canonical order");
    for (int child : all_children[i])
      if (valid[static_cast<size_t>(child)]) children[i].push_back(child);
    valid[i] = all_children[i].empty() ? node.reward.has_value() : !children[i].empty();
  }
  for (size_t i = 0; i < count; ++i) {
    const Node& node = source.nodes[i];
    first_leaf[i] = static_cast<int>(leaves.size());
    if (!valid[i]) continue;
    if (node.parent < 0) roots.push_back(static_cast<int>(i));
    if (!all_children[i].empty()) continue;
    leaves.push_back(static_cast<int>(i));
    rewards.push_back(std::pow(gamma, node.turn) * *node.reward);
  }
  for (size_t i = count; i-- > 0;) {
    end_leaf[i] = first_leaf[i] + (valid[i] && children[i].empty() ? 1 : 0);
    if (!children[i].empty()) end_leaf[i] = end_leaf[static_cast<size_t>(children[i].back())];
  }
  for (size_t i = 0; i < count; ++i) {
    if (!valid[i]) continue;
    const int n = static_cast<int>(i), above = source.nodes[i].parent;
    head[i] = siblings(n).size() > 1 ? n : above < 0 ? -1 : head[static_cast<size_t>(above)];
  }
}

std::vector<std::vector<int>> TreeView::groups() const {
  std::vector<std::vector<int>> result;
  if (roots.size() > 1) result.push_back(roots);
  for (const auto& group : children)
    if (group.size() > 1) result.push_back(group);
  return result;
}

NodeValues node_values(const TreeView& view, const std::vector<double>& leaf, Value value) {
  NodeValues result;
  result.node.assign(view.valid.size(), 0.0);
  auto combine = [&](const std::vector<int>& nodes) {
    if (nodes.empty()) return 0.0;
    if (value == Value::entropy) return entropy_mean(view, nodes, result.node);
    return mean(pick(nodes, result.node));
  };
  const std::span<const double> all(leaf);
  for (size_t i = view.valid.size(); i-- > 0;) {
    if (!view.valid[i]) continue;
    const auto below = all.subspan(static_cast<size_t>(view.first_leaf[i]),
                                   static_cast<size_t>(view.leaf_count(static_cast<int>(i))));
    const bool over_leaves = value == Value::leaf || view.children[i].empty();
    result.node[i] = over_leaves ? mean(below) : combine(view.children[i]);
  }
  result.prompt = value == Value::leaf ? mean(all) : combine(view.roots);
  return result;
}

double mean(std::span<const double> values) {
  if (values.empty()) return 0.0;
  double sum = 0.0;  // of differences from the first: equal values keep their exact value
  for (double value : values) sum += value - values.front();
  return values.front() + sum / static_cast<double>(values.size());
}

double leave_one_out(std::span<const double> values, size_t i) {
  if (values.size() < 2) return 0.0;
  double sum = 0.0;
  for (size_t c = 0; c < values.size(); ++c)
    if (c != i) sum += values[i] - values[c];
  return sum / static_cast<double>(values.size() - 1);
}

double deviation(std::span<const double> values) {
  if (values.size() < 2) return 0.0;
  const double centre = mean(values);
  double squares = 0.0;
  for (double value : values) squares += (value - centre) * (value - centre);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

}  // namespace espalier::tree
