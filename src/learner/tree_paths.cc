#include "learner/tree_paths.h"

#include <algorithm>

namespace espalier::learner {
namespace {

LeafPath path_to(const tree::Tree& tree, int leaf) {
  LeafPath path;
  for (int node = leaf; node >= 0; node = tree.nodes[static_cast<size_t>(node)].parent)
    path.nodes.push_back(node);
  std::reverse(path.nodes.begin(), path.nodes.end());
  return path;
}

int64_t edges_of(const tree::Tree& tree, const LeafPath& path) {
  int64_t edges = 0;
  for (int node : path.nodes) {
    const auto& mask = tree.nodes[static_cast<size_t>(node)].loss_mask;
    edges += std::count_if(mask.begin(), mask.end(), [](uint8_t on) { return on != 0; });
  }
  return edges;
}

}  // namespace

TreePaths::TreePaths(const tree::Tree& tree, bool with_estimates)
    : below_(tree.nodes.size(), 0), inverse_length_(tree.nodes.size(), 0.0) {
  std::vector<double> weights(tree.nodes.size(), 0.0);
  std::vector<size_t> valid_below(tree.nodes.size(), 0);
  for (int leaf : tree.leaves()) {
    LeafPath path = path_to(tree, leaf);
    const double weight = with_estimates ? tree.nodes[static_cast<size_t>(leaf)].weight : 1.0;
    const int64_t edges = edges_of(tree, path);
    path.valid = weight > 0 && edges > 0;
    for (int node : path.nodes) {
      const size_t n = static_cast<size_t>(node);
      ++below_[n];
      if (weight <= 0) continue;
      path.credit_index.push_back(valid_below[n]++);
      weights[n] += weight;
      if (edges > 0) inverse_length_[n] += weight / static_cast<double>(edges);
    }
    leaves_.push_back(std::move(path));
  }
  for (size_t n = 0; n < weights.size(); ++n) {
    if (weights[n] > 0) inverse_length_[n] /= weights[n];
  }
}

}  // namespace espalier::learner
