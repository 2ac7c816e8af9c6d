// Checkpoints: checkpoints/step_NNNNNN/ holds a Hugging Face model directory, the optimizer and the
// run's state.
#pragma once

#include <filesystem>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/session.h"
#include "common/metrics.h"

namespace espalier::app {

/// Everything of a run besides weights and optimizer.
// The analysis takes the self-checks in nlohmann::json's move for something that throws.
struct RunState {                 // NOLINT(bugprone-exception-escape)
  uint64_t step = 0;              // training steps done
  std::string ledger, fork_rule;  // their save()
  nlohmann::json eval_before;     // figures measured before training
  nlohmann::json eval_after;      // and after the last step; null: not yet
  nlohmann::json wall_s;          // seconds by phase so far
  tree::JournalPosition journal;  // where what happened after it begins
  bool begun = false;             // the record of step 0 is written
  common::Metrics unlogged;       // of the last step, whose evaluation was interrupted; else empty
  std::optional<double> success;  // on the held-out tasks after this very step, where evaluated
  std::string budget_spent;       // the budget that was reached, as "limit unit"; empty: none yet
  int bad_steps = 0;              // that were skipped, in all
  int bad_in_a_row = 0;           // up to this one

  /// The first step whose metrics are not written.
  uint64_t next_record() const { return begun ? step + (unlogged.empty() ? 1 : 0) : 0; }
  nlohmann::json to_json() const;
};

/// Copies of all that a checkpoint holds, to be written while the run goes on.
struct CheckpointContent {
  RunState state;
  policy::WeightsPtr weights;
  std::function<void(const std::filesystem::path& directory)> optimizer;  // writes it there
  policy::TokenizerPtr tokenizer;
};

/// Which checkpoints stay: step 0 (the warm start), the newest, and the best by
/// RunState::success; of equal ones the newer.
struct CheckpointsKept {
  int last = 1;
  int best = 0;
};

/// Writes checkpoints in the background, one after the other: each to a temporary directory, whose
/// files are synced, and which is then put in place at once. Thread contract: one owner.
class CheckpointWriter {
 public:
  /// Removes the temporary directories that a killed process left.
  CheckpointWriter(RunDirectory run, CheckpointsKept kept);
  /// Waits.
  ~CheckpointWriter();

  /// Returns when the checkpoint before this one is in place. Errors: StoreError, of that one.
  void save(CheckpointContent content);
  /// Until the last one is in place. Errors: StoreError.
  void wait();

 private:
  void write(const CheckpointContent& content) const;

  const RunDirectory run_;
  const CheckpointsKept kept_;
  std::future<void> writing_;
};

std::filesystem::path checkpoint_path(const RunDirectory& run, uint64_t step);

struct Checkpoint {
  std::filesystem::path directory;
  RunState state;
  Start model;
};

/// The checkpoint after `step` steps. Errors: ConfigError naming those there are; StoreError.
Checkpoint checkpoint_at(const RunDirectory& run, uint64_t step);

/// The directory of the newest; empty: there is none.
std::filesystem::path newest_checkpoint_path(const RunDirectory& run);

/// The newest checkpoint that is whole; a damaged one is reported (log, warning) and the one before
/// is taken. nullopt: none.
std::optional<Checkpoint> newest_checkpoint(const RunDirectory& run);

}  // namespace espalier::app
