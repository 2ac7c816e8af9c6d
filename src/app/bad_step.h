// A step whose loss or gradient was not finite: kept for replay.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "app/run_directory.h"
#include "app/session.h"
#include "common/config.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// What the step was done with.
struct BadStep {
  uint64_t step = 0;
  std::string parameter;  // UpdateResult::bad
  const std::vector<tree::Tree>* trees = nullptr;
  Start start;  // weights before it
};

/// Writes bad_steps/step_NNNNNN in the run: a run directory with the trees alone, which `espalier
/// trace` reads, the weights before the step in model/, and a config.yaml that `espalier train`
/// does the step again from. Returns it. Errors: StoreError.
std::filesystem::path save_bad_step(const RunDirectory& run, const common::Config& config,
                                    const BadStep& bad);

}  // namespace espalier::app
