// Sealed trees in HDF5: one file a training step, columns over all its trees, readable from h5py
// (docs/format.md has an example).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

/// Writes trees/step_NNNNNN.h5 (temp, fsync, rename). The bytes depend on the trees alone: no
/// times, no object tracking. Errors: StoreError with path and reason.
void write_trees(const std::filesystem::path& file, const std::vector<Tree>& trees);

/// Errors: StoreError with path, object and reason.
std::vector<Tree> read_trees(const std::filesystem::path& file);

std::filesystem::path shard_path(const std::filesystem::path& run_directory, uint64_t step);
/// Shards of a run in order of their step.
std::vector<std::filesystem::path> list_shards(const std::filesystem::path& run_directory);

}  // namespace espalier::tree
