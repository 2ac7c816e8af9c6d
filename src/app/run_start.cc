#include "app/run_start.h"

#include <fmt/core.h>

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
  if (!config.data.trees.empty() && !fs::exists(tree::shard_path(config.data.trees, 0))) {
    throw common::ConfigError(
        fmt::format("data.trees: '{}' is no run with stored trees (there is no {})",
                    config.data.trees, tree::shard_path(config.data.trees, 0).string()));
  }
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

}  // namespace

RunStart new_run(const common::Config& config) {
  RunStart start{config, {}, start_point(config), std::nullopt};
  check_inputs(config);
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
  start.model = start.checkpoint ? start.checkpoint->model : start_point(start.config);
  common::write_file_atomically(start.run.config(), common::to_yaml(start.config));
  return start;
}

}  // namespace espalier::app
