// What a run starts from, all of it looked at before any work.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/checkpoint.h"
#include "app/run_directory.h"
#include "app/session.h"
#include "common/config.h"

namespace espalier::app {

struct RunStart {
  common::Config config;
  RunDirectory run;
  Start model;
  std::optional<Checkpoint> checkpoint;  // to go on from (`model` holds its weights, with adapters
                                         // those they stand beside); none: from the beginning
};

/// A new run. Its directory is made last, when nothing can be wrong any more with the
/// configuration or this machine. Errors: ConfigError, TaskError, PolicyError, StoreError,
/// Unsupported.
RunStart new_run(const common::Config& config);

/// Goes on with a run that exists: the one whose own config.yaml `file` is, else the newest of the
/// name that `file` and overrides give. The run's saved configuration counts, with the overrides on
/// top, and is saved again. Errors: as new_run().
RunStart resume_run(const std::string& file, const std::vector<std::string>& overrides);

}  // namespace espalier::app
