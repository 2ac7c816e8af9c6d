// A run's trees in formats that others read.
#pragma once

#include <functional>
#include <string>

#include "tree/run_trees.h"
#include "tree/trace_json.h"

namespace espalier::tree {

/// One JSON object a tree: the summary and every node with its token data.
Json export_json(const RunTree& tree);

/// Column heads of csv_rows().
std::string csv_heading();
/// One row a node (RFC 4180), without token data.
std::string csv_rows(const RunTree& tree);

/// The episode that ends in `leaf` as an ATIF v1.7 trajectory: a linear one a leaf; where it lies
/// in the tree stands in `extra`.
Json atif_trajectory(const RunTree& tree, int leaf);

}  // namespace espalier::tree
