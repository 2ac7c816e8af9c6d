// What two nodes of a run have in common, and what each did differently.
#pragma once

#include <string>
#include <vector>

#include "tree/run_trees.h"
#include "tree/trace_json.h"
#include "tree/trace_text.h"

namespace espalier::tree {

struct TraceDiff {
  bool same_tree = false;
  int ancestor = -1;      // last node on both paths; -1: the prompt, or nothing
  std::vector<int> a, b;  // nodes behind it on the way to each, in order
};

/// The two may be of different trees: then all of both paths differ.
TraceDiff diff_nodes(const FoundNode& a, const FoundNode& b);

Json diff_json(const FoundNode& a, const FoundNode& b);
std::string diff_text(const FoundNode& a, const FoundNode& b, const TextOptions& options);

}  // namespace espalier::tree
