// What rules that look back have in common: the decisions of a finished tree that could be made
// again.
#pragma once

#include <vector>

#include "tree/fork_rule.h"

namespace espalier::tree {

/// A turn boundary behind `node` where an action was sampled.
struct Decision {
  int node = 0;            // the parent of what was sampled
  double entropy = 0;      // of the first token there
  int children = 0;        // that are there already
  int leaves = 0;          // with a reward, below node
  double mean_reward = 0;  // of them
};

/// In canonical order. A boundary whose children all did nothing is none.
std::vector<Decision> decisions(const Tree& tree);

/// reward below ½: what pivot and meta_agent call a failure.
bool failed(const Node& leaf);

/// Whether all leaves with a reward have the same.
bool uniform_outcome(const Tree& tree);

}  // namespace espalier::tree
