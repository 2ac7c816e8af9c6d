// A run's trees as JSON, for scripts.
#pragma once

#include <nlohmann/json.hpp>

#include "tree/run_trees.h"

namespace espalier::tree {

/// Keys keep their order. Text that is not UTF-8 survives until dump(); dump with `replace`.
using Json = nlohmann::ordered_json;

Json to_json(const TreeSummary& summary);
/// The summary and every node, without token data.
Json tree_json(const RunTree& tree);
/// tokens: with ids, log-probs, entropies and loss mask of the action.
Json node_json(const RunTree& tree, int node, bool tokens);
/// Bytes that are no UTF-8 become U+FFFD.
std::string dump(const Json& json, int indent = -1);

}  // namespace espalier::tree
