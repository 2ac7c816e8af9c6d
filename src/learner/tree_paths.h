// The root-to-leaf paths of a tree. No torch in this header.
#pragma once

#include <cstddef>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::learner {

struct LeafPath {
  std::vector<int> nodes;            // from the root down
  std::vector<size_t> credit_index;  // per node: the leaf's place in its leaf_credits, if valid
  bool valid = false;                // its leaf has a reward (ω > 0)
};

class TreePaths {
 public:
  /// Without estimates all leaves are valid and weigh the same.
  TreePaths(const tree::Tree& tree, bool with_estimates);

  const std::vector<LeafPath>& leaves() const { return leaves_; }  // depth first
  int leaves_below(int node) const { return below_[static_cast<size_t>(node)]; }
  /// Mean of 1/T over the valid leaves below the node, weighed by their ω; T: action tokens of the
  /// path that are trained on. 0: there is none.
  double inverse_length(int node) const { return inverse_length_[static_cast<size_t>(node)]; }

 private:
  std::vector<LeafPath> leaves_;
  std::vector<int> below_;
  std::vector<double> inverse_length_;
};

}  // namespace espalier::learner
