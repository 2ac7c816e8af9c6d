// Environment::snapshot and Backend::open: between live sandboxes and the snapshot store.
//
// Both stream. A layer goes from the supervisor's pipe into compressor and hash at once, and back
// the same way; no tree is ever held in memory. Layers that the store has already are not read
// again, and a layer that is live already is not laid down again.
//
// To measure: make files in an environment and take the time of snapshot(); then, in another
// process, make_sandbox_backend() over the same directory and take the time of open() and of a
// first run(). SnapshotStore (snapshot_store.h) lists, checks and removes what lies in the
// directory.
#pragma once

#include <memory>

#include "envs/environment.h"
#include "envs/sandbox/local_environment.h"

namespace espalier::envs::sandbox {

/// Environment::snapshot. On the reactor's thread.
void take_snapshot(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done);

/// Backend::open. On the reactor's thread. Errors: StoreError naming the file that is missing or
/// damaged, or both images when the snapshot was taken over another than the one found here.
void open_snapshot(const std::shared_ptr<Core>& core, SnapshotId id,
                   Completion<EnvironmentPtr> done);

}  // namespace espalier::envs::sandbox
