// Durable states of environments: DIR/<id>/{meta.json, state.tar.zst}.
//
// The id is the SHA-256 of what the state is (specification, shell state, files with their modes
// and owners), not of when it came to be (no modification times): equal states have equal ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/sandbox/local_environment.h"
#include "envs/sandbox/pack.h"

namespace espalier::envs::sandbox {

/// Everything needed to make an environment live again.
struct SnapshotContent {
  EnvironmentSpec spec;  // files is empty: they are among the items
  std::string shell;     // restore text
  int last_exit_code = 0;
  std::vector<PackItem> items;  // one layer over the skeleton, sorted by path
};

/// One layer that shows what these layers (bottom first) show together.
std::vector<PackItem> merge_layers(const std::vector<std::vector<PackItem>>& layers);

SnapshotId snapshot_id(const SnapshotContent& content);
/// Errors: StoreError.
SnapshotId write_snapshot(const std::filesystem::path& directory, const SnapshotContent& content);
/// Checks the content against its id. Errors: StoreError.
SnapshotContent read_snapshot(const std::filesystem::path& directory, const SnapshotId& id);

/// Environment::snapshot. On the reactor's thread.
void take_snapshot(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done);
/// Backend::open. On the reactor's thread.
void open_snapshot(const std::shared_ptr<Core>& core, SnapshotId id,
                   Completion<EnvironmentPtr> done);

}  // namespace espalier::envs::sandbox
