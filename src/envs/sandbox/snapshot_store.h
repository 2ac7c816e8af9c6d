// Durable states on disk: DIR/<id>.json, a small manifest each, over DIR/layers/<id>.zst, each
// stored once and shared by all states over it.
//
// Ids say what a state is, not when or how it came to be: no times, and not how it is cut into
// layers. Files appear whole or not at all (written aside, synced, renamed), layers before the
// manifest that names them. Any number of processes may read and write one store; collect() waits
// for writers and keeps them out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "envs/sandbox/fd.h"
#include "envs/sandbox/layer_file.h"
#include "envs/sandbox/snapshot_manifest.h"

namespace espalier::envs::sandbox {

/// Reading and tidying. Thread contract: any thread; holds no state but the directory's name, which
/// need not exist yet.
class SnapshotStore {
 public:
  explicit SnapshotStore(std::filesystem::path directory);

  /// Errors: StoreError naming the file when there is no such snapshot or it is damaged.
  SnapshotManifest read(const SnapshotId& id) const;
  /// The layer's index. Errors: StoreError naming the file.
  StoredLayerPtr layer(const std::string& id) const;
  std::filesystem::path layer_path(const std::string& id) const;
  std::filesystem::path manifest_path(const SnapshotId& id) const;

  /// All snapshots, ordered by id; damaged ones too.
  std::vector<SnapshotId> list() const;
  /// Takes the snapshot away; its layers stay until collect(). False: there was none. Errors:
  /// StoreError.
  bool remove(const SnapshotId& id);

  struct Collected {
    size_t layers = 0;  // removed
    uint64_t bytes = 0;
    size_t kept = 0;
  };
  /// Removes the layers that no manifest names, and what killed writers left. Errors: StoreError
  /// when a manifest cannot be read (nothing is removed then; remove() it first), or when snapshots
  /// are being written for longer than 10 s.
  Collected collect();

  /// Reads every byte of a snapshot and compares it with its names. Errors: StoreError naming the
  /// file.
  void verify(const SnapshotId& id) const;

 private:
  std::filesystem::path directory_;
};

/// One snapshot being written; collect() waits while it lives. Thread contract: one owner. Errors
/// of all: StoreError.
class SnapshotWriter {
 public:
  /// Makes the directory.
  explicit SnapshotWriter(const std::filesystem::path& directory);

  /// Takes a layer's pack from a pipe, up to its end. Of an empty layer nothing is stored.
  StoredLayerPtr add(int pack_fd);
  /// Whether the store has the layer, or add() brought it.
  bool has(const std::string& layer) const;

  /// Sets what the manifest says of the layers (lowest first, each of which has() holds for) and
  /// makes everything durable. The state is there when it returns.
  SnapshotId finish(SnapshotManifest manifest, const std::vector<StoredLayerPtr>& layers);

 private:
  struct Staged {
    std::string layer;
    StagedFile file;
  };
  bool is_staged(const std::string& layer) const;
  bool is_sound(const std::string& layer) const;
  bool is_there(const SnapshotId& id) const;

  std::filesystem::path directory_;
  SnapshotStore store_;
  Fd lock_;
  std::vector<Staged> staged_;
};

}  // namespace espalier::envs::sandbox
