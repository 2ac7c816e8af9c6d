// The trees of a run wherever they are: stored in shards, or only in the journal so far.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

enum class TreeState {
  stored,      // in a shard, with advantages
  sealed,      // complete in the journal, in no shard
  unfinished,  // some of its episodes are not over, or were cut off
};
const char* to_string(TreeState state);

struct RunTree {
  Tree tree;
  TreeState state = TreeState::stored;
};

/// Calls `visit` for each tree, shard by shard and then what the journal alone holds, until it
/// returns false. One shard is in memory at a time. Errors: ConfigError when `run` is no run
/// directory; StoreError, for a damaged journal after all that survived was visited.
void visit_trees(const std::filesystem::path& run, const std::function<bool(RunTree&&)>& visit);

/// Errors: ConfigError when the directory is no run's.
void check_run(const std::filesystem::path& run);

/// The tree alone, not what the run holds besides, when it is stored and the run's index
/// (tree_index.h) knows it; else what it takes to find it. Errors: ConfigError when the run has no
/// such tree; StoreError.
RunTree find_tree(const std::filesystem::path& run, uint64_t index);
RunTree find_tree(const std::filesystem::path& run, const NodeId& id);
/// `name`: an index ("3", "task-3"), or the beginning of an id (4 to 64 hex digits with a letter
/// among them, or at least 20).
RunTree find_tree(const std::filesystem::path& run, const std::string& name);

struct FoundNode {
  RunTree found;
  int node = 0;  // index in found.tree.nodes; -1: the prompt, where nothing was done yet
};

/// `name`: a prefix of an id (4 to 64 hex digits), or TREE/PATH as in "3/r2/t5/b1" or
/// "task-3/r2/t5/b1" ("3/r2": the first turn of a root). Errors: ConfigError when nothing or more
/// than one node is meant; StoreError.
FoundNode find_node(const std::filesystem::path& run, const std::string& name);

/// As find_node(); a tree's name alone ("task-3", "3/") means its start: node -1.
FoundNode find_place(const std::filesystem::path& run, const std::string& name);

/// Nodes from the root's first turn to `node`; none for -1.
std::vector<int> path_to(const Tree& tree, int node);

struct TreeSummary {
  uint64_t index = 0;
  uint64_t step = 0;
  std::string task;
  TreeState state = TreeState::stored;
  int roots = 0;
  int turns = 0;
  int forks = 0;  // nodes with two or more children
  int leaves = 0;
  std::optional<double> mean_reward;  // over leaves with a reward
  std::map<Outcome, int> outcomes;    // of the leaves; none: not over
};
TreeSummary summarise(const RunTree& tree);

}  // namespace espalier::tree
