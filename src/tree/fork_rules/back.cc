#include "tree/fork_rules/back.h"

namespace espalier::tree {

std::vector<Decision> decisions(const Tree& tree) {
  const size_t count = tree.nodes.size();
  std::vector<Decision> at(count);
  std::vector<double> sum(count, 0.0);
  std::vector<bool> acted(count, false);
  const auto children = tree.children();
  for (size_t i = count; i-- > 0;) {
    const Node& node = tree.nodes[i];
    at[i].node = static_cast<int>(i);
    if (children[i].empty() && node.reward) {
      at[i].leaves = 1;
      sum[i] = *node.reward;
    }
    if (at[i].leaves > 0) at[i].mean_reward = sum[i] / at[i].leaves;
    if (node.parent < 0) continue;
    const size_t parent = static_cast<size_t>(node.parent);
    at[parent].leaves += at[i].leaves;
    sum[parent] += sum[i];
    ++at[parent].children;
    if (node.action.empty()) continue;
    at[parent].entropy = node.first_entropy;  // the same for all of them
    acted[parent] = true;
  }
  std::vector<Decision> result;
  for (size_t i = 0; i < count; ++i)
    if (acted[i]) result.push_back(at[i]);
  return result;
}

bool failed(const Node& leaf) { return leaf.reward && *leaf.reward < 0.5; }

bool uniform_outcome(const Tree& tree) {
  const double* first = nullptr;
  for (int leaf : tree.leaves()) {
    const Node& node = tree.nodes[static_cast<size_t>(leaf)];
    if (!node.reward) continue;
    if (first && *first != *node.reward) return false;
    first = &*node.reward;
  }
  return true;
}

}  // namespace espalier::tree
