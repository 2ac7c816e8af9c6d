// runs/NAME: where everything of one run is kept.
#pragma once

#include <filesystem>
#include <string>

#include "common/config.h"

namespace espalier::app {

/// Names of what a run writes.
struct RunDirectory {
  std::filesystem::path root;

  std::filesystem::path config() const { return root / "config.yaml"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path journal() const { return root / "journal"; }
  std::filesystem::path trees() const { return root / "trees"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path snapshots() const { return root / "snapshots"; }
  std::filesystem::path bad_steps() const { return root / "bad_steps"; }
  std::filesystem::path summary() const { return root / "summary.json"; }
  std::filesystem::path report() const { return root / "report.html"; }
  std::filesystem::path log() const { return root / "espalier.log"; }
};

/// Makes run_dir/NAME, or NAME-2, NAME-3 … when that exists: no run is ever overwritten. Sets the
/// name to the one it got and saves the resolved configuration. Errors: StoreError when it cannot
/// be written.
RunDirectory create_run(common::Config& config);

/// For --resume: the run whose own config.yaml `file` is, else the newest of NAME, NAME-2, …
/// Errors: ConfigError when there is none.
RunDirectory find_run(const std::filesystem::path& file, const common::Config& config);

}  // namespace espalier::app
