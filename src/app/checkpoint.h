// Checkpoints: checkpoints/step_NNNNNN/ holds a Hugging Face model directory, the optimizer and the
// run's state.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/session.h"
#include "common/metrics.h"
#include "learner/learner.h"

namespace espalier::app {

/// Everything of a run besides weights and optimizer.
struct RunState {
  uint64_t step = 0;              // training steps done
  std::string ledger, fork_rule;  // their save()
  nlohmann::json eval_before;     // figures measured before training
  nlohmann::json eval_after;      // and after the last step; null: not yet
  nlohmann::json wall_s;          // seconds by phase so far
  tree::JournalPosition journal;  // where what happened after it begins
  bool begun = false;             // the record of step 0 is written
  common::Metrics unlogged;       // of the last step, whose evaluation was interrupted; else empty

  /// The first step whose metrics are not written.
  uint64_t next_record() const { return begun ? step + (unlogged.empty() ? 1 : 0) : 0; }
  nlohmann::json to_json() const;
};

/// Writes a temporary directory, fsyncs it and puts it in place at once; then drops all but the
/// newest keep_last (step 0, the warm start, is kept). Errors: StoreError.
void save_checkpoint(const RunDirectory& run, const RunState& state,
                     const learner::Learner& learner, const policy::TokenizerPtr& tokenizer,
                     int keep_last);

struct Checkpoint {
  std::filesystem::path directory;
  RunState state;
  Start model;
};

/// The newest checkpoint that is whole; a damaged one is reported (log, warning) and the one before
/// is taken. nullopt: none.
std::optional<Checkpoint> newest_checkpoint(const RunDirectory& run);

}  // namespace espalier::app
