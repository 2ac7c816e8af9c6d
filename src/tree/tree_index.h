// Where in a run's shards a tree lies, found in constant time: trees/index.
//
// A hash table on disk, derived from the shards: what is missing, torn or stale in it costs time
// and nothing else, for what it answers is checked against the shard and the shards are searched
// otherwise. So it is never synced, and writing it never fails.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

struct TreePlace {
  uint64_t step = 0;  // of the shard
  uint32_t row = 0;   // within it
};

/// Thread contract: one writer; readers in any process.
class TreeIndex {
 public:
  /// `trees`: the directory of the shards.
  explicit TreeIndex(const std::filesystem::path& trees);
  /// Enters a shard's trees, in the order of its rows, over what it says of them so far.
  void add(uint64_t step, const std::vector<Tree>& trees) noexcept;
  void add(uint64_t step, const std::vector<uint64_t>& indices,
           const std::vector<NodeId>& ids) noexcept;
  std::optional<TreePlace> find(uint64_t index) const;
  std::optional<TreePlace> find(const NodeId& id) const;
  bool exists() const;

 private:
  std::filesystem::path file_;
};

}  // namespace espalier::tree
