// A run's environments, opened again: in another process, after a crash, days later.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "app/run_directory.h"
#include "app/session.h"
#include "rollout/harness.h"
#include "tree/run_trees.h"

namespace espalier::app {

/// Where the backend of a RecordedRun reads and writes snapshots.
enum class SnapshotPlace {
  run,      // opens the run's; take none
  scratch,  // gone with the object: `scratch`/snapshots
};

/// What a run's trees were rolled out with, put together again from its directory, to which nothing
/// is written. Thread contract: one owner.
struct RecordedRun {
  /// Errors: ConfigError when it is no run or its configuration cannot be read; Unsupported.
  explicit RecordedRun(const std::filesystem::path& root,
                       SnapshotPlace snapshots = SnapshotPlace::run);

  envs::TaskPtr load_task(const tree::Tree& tree) const { return tasks->load(tree.task); }

  RunDirectory directory;
  common::Config config;
  policy::TokenizerPtr tokenizer;
  common::TempDir scratch{"espalier-trace"};
  std::unique_ptr<envs::TaskSource> tasks;
  std::unique_ptr<envs::Backend> backend;
  std::unique_ptr<rollout::Harness> harness;
};

/// The tokenizer saved with the run's newest checkpoint; null: there is none.
policy::TokenizerPtr newest_tokenizer(const std::filesystem::path& run);

/// A state that was made again.
struct Reopened {
  envs::EnvironmentPtr environment;
  std::string snapshot;       // that was opened; empty: the task's start
  int snapshot_node = -1;     // after which it was taken
  std::vector<int> executed;  // nodes whose commands were run again after it
  std::vector<int> differed;  // those of them that showed something else than recorded
  std::string passed_over;    // why a nearer snapshot was not opened; empty: there was none
};

/// The environment as it was after the node (-1: at the task's start): its snapshot, or that of the
/// nearest node above which has one, or the task's start, and then the commands since. Blocks.
/// Errors: SandboxError, TaskError.
Reopened reopen(const RecordedRun& run, const tree::FoundNode& place);

/// "from its snapshot 0123abcd", "from the snapshot of r0/t2, 3 commands run again", …
std::string how_reopened(const tree::Tree& tree, int node, const Reopened& reopened);

}  // namespace espalier::app
