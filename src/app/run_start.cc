#include "app/run_start.h"

#include <fmt/core.h>

#include <algorithm>

#include "app/algorithm.h"
#include "common/error.h"
#include "common/files.h"
#include "policy/device.h"
#include "tree/journal.h"
#include "tree/store.h"

namespace espalier::app {

namespace fs = std::filesystem;

namespace {

void check_inputs(const common::Config& config) {
  estimator_of(config);
  fork_rule_of(config);
  const uint64_t first = static_cast<uint64_t>(std::max(config.data.from_step, 0));
  if (!config.data.trees.empty() && !fs::exists(tree::shard_path(config.data.trees, first))) {
    throw common::ConfigError(
        fmt::format("data.trees: '{}' is no run with stored trees (there is no {})",
                    config.data.trees, tree::shard_path(config.data.trees, first).string()));
  }
  if (config.data.trees.empty() && (config.data.from_step >= 0 || config.data.counterfactuals))
    throw common::ConfigError(
        "data.from_step and data.counterfactuals are about stored trees; set data.trees=RUN");
  try {
    policy::resolve_device(config.model.device);
  } catch (const common::PolicyError& error) {
    throw common::Unsupported(
        fmt::format("model.device={}: {}\nRun `espalier doctor` to see what "
                    "this machine can do.",
                    config.model.device, error.what()));
  }
  make_backend(config, {});  // throws Unsupported where sandboxes cannot be made
}

/// The state in which data.trees was when the batch of data.from_step was learned from.
Checkpoint stored_start(const common::Config& config) {
  Checkpoint checkpoint =
      checkpoint_at({config.data.trees}, static_cast<uint64_t>(config.data.from_step));
  RunState& state = checkpoint.state;
  state.eval_before = state.eval_after = nlohmann::json();
  state.wall_s = nlohmann::json::object();
  state.journal = {};
  state.begun = true;
  state.unlogged.clear();
  return checkpoint;
}

/// The checkpoint's model; adapters go on beside the weights that they were made for.
Start model_beside(const RunStart& start) {
  return start.config.learner.lora.rank > 0 ? start_point(start.config) : start.checkpoint->model;
}

/// Where a run without a checkpoint of its own starts.
void begin(RunStart& start) {
  if (start.config.data.from_step < 0) {
    start.model = start_point(start.config);
    return;
  }
  start.checkpoint = stored_start(start.config);
  start.model = model_beside(start);
}

}  // namespace

RunStart new_run(const common::Config& config) {
  check_inputs(config);
  RunStart start{config, {}, {}, std::nullopt};
  begin(start);
  start.run = create_run(start.config);
  return start;
}

RunStart resume_run(const std::string& file, const std::vector<std::string>& overrides) {
  RunStart start;
  start.run = find_run(file, common::load_config(file, overrides));
  start.config = common::load_config(start.run.config(), overrides);
  const fs::path root = fs::absolute(start.run.root).lexically_normal();
  start.config.name = root.filename().string();
  start.config.run_dir = root.parent_path().string();
  check_inputs(start.config);
  const tree::JournalWriter lock(start.run.journal(), tree::Durability::none);  // nobody else's run
  start.checkpoint = newest_checkpoint(start.run);
  if (start.checkpoint) {
    start.model = model_beside(start);
  } else {
    begin(start);
  }
  common::write_file_atomically(start.run.config(), common::to_yaml(start.config));
  return start;
}

}  // namespace espalier::app
