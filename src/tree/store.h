// Sealed trees in HDF5: one file a training step, columns over all its trees, readable from h5py
// (docs/format.md has an example).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tree/file_system.h"
#include "tree/trace_tree.h"

namespace espalier::tree {

/// Writes trees/step_NNNNNN.h5 whole or not at all (partial file, fsync, rename), and enters its
/// trees into the run's index (tree_index.h). The bytes depend on the trees alone: no times, no
/// object tracking. `files`: null: the machine's. Errors: StoreError with path and reason.
void write_trees(const std::filesystem::path& file, const std::vector<Tree>& trees,
                 FileSystem* files = nullptr);

/// Errors: StoreError with path, object and reason.
std::vector<Tree> read_trees(const std::filesystem::path& file);
/// The tree in one row alone. Errors: as read_trees().
Tree read_tree(const std::filesystem::path& file, uint64_t row);

/// What names a shard's trees and nodes.
struct ShardIds {
  std::vector<uint64_t> indices;     // per tree
  std::vector<NodeId> trees;         // per tree
  std::vector<NodeId> digests;       // per tree: tree_digest(); empty: a shard of version 1
  std::vector<NodeId> nodes;         // of all trees, one after the other
  std::vector<uint64_t> first_node;  // tree i's nodes are [first_node[i], first_node[i + 1])
};
/// Errors: as read_trees().
ShardIds read_ids(const std::filesystem::path& file);

std::filesystem::path shard_path(const std::filesystem::path& run_directory, uint64_t step);
/// The step of a shard's file; nullopt: the file is none.
std::optional<uint64_t> shard_step(const std::filesystem::path& file);
/// Shards of a run in order of their step.
std::vector<std::filesystem::path> list_shards(const std::filesystem::path& run_directory);

}  // namespace espalier::tree
