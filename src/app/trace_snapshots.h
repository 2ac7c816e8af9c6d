// The durable environment states that a run's trees name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "rollout/farm.h"

namespace espalier::app {

struct SnapshotsDropped {
  size_t kept = 0;
  size_t dropped = 0;
  uint64_t bytes_freed = 0;
};

/// Drops a run's snapshots: all, or those of nodes below which nothing branched, and what nothing
/// names. Trees, journal and checkpoints are not touched. Errors: ConfigError when it is no run;
/// StoreError, also when a process is writing the run.
SnapshotsDropped drop_snapshots(const std::filesystem::path& run, rollout::KeepSnapshots keep);

struct StoredState {
  std::filesystem::path store;  // a run's snapshots/
  std::string id;
};

/// "+ path", "- path", "~ path" for the files that `b` adds to, lacks of, has other than `a`.
/// Errors: StoreError.
std::vector<std::string> changed_files(const StoredState& a, const StoredState& b);

}  // namespace espalier::app
