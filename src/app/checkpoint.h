// Checkpoints: checkpoints/step_NNNNNN/ holds a Hugging Face model directory, the optimizer and the
// run's state.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/session.h"
#include "learner/learner.h"

namespace espalier::app {

/// Everything of a run besides weights and optimizer.
struct RunState {
  uint64_t step = 0;              // training steps done
  std::string ledger, fork_rule;  // their save()
  nlohmann::json eval_before;     // figures measured before training
  nlohmann::json wall_s;          // seconds by phase so far
  nlohmann::json to_json() const;
};

/// Writes a temporary directory, fsyncs it and renames it; then drops all but the newest keep_last
/// (step 0, the warm start, is kept). Errors: StoreError.
void save_checkpoint(const RunDirectory& run, const RunState& state,
                     const learner::Learner& learner, const policy::TokenizerPtr& tokenizer,
                     int keep_last);

struct Checkpoint {
  std::filesystem::path directory;
  RunState state;
};

/// The newest checkpoint that is whole; a damaged one is reported (log, warning) and the one before
/// is taken. nullopt: none.
std::optional<Checkpoint> newest_checkpoint(const RunDirectory& run);

}  // namespace espalier::app
