#include "app/env_clean.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "envs/container/backend.h"
#include "envs/sandbox/leftovers.h"

namespace espalier::app {

namespace {

/// The container engine's, where there is one.
void add_containers(std::vector<envs::Leftover>& all, bool dry_run) {
  try {
    const envs::ContainerLeftovers found = envs::clean_containers("", dry_run);
    for (const std::string& id : found.containers) all.push_back({"container", id, ""});
    for (const std::string& id : found.images) all.push_back({"container image", id, ""});
  } catch (const common::Unsupported&) {
    // No engine: nothing of ours can be in it.
  } catch (const common::SandboxError& error) {
    all.push_back({"container", "", error.what()});
  }
}

}  // namespace

int run_env_clean(bool dry_run, bool as_json) {
  std::vector<envs::Leftover> all = envs::sweep_leftovers(!dry_run);
  add_containers(all, dry_run);
  size_t failed = 0;
  nlohmann::json list = nlohmann::json::array();
  for (const envs::Leftover& leftover : all) {
    failed += leftover.failure.empty() ? 0 : 1;
    list.push_back({{"kind", leftover.kind},
                    {"path", leftover.path.string()},
                    {"removed", !dry_run && leftover.failure.empty()},
                    {"failure", leftover.failure}});
  }
  const int exit_code = failed == 0 ? common::kExitOk : common::kExitFailure;
  if (as_json) {
    fmt::print("{}\n", list.dump(2));
    return exit_code;
  }
  for (const envs::Leftover& leftover : all) {
    const char* what = dry_run                    ? "left behind"
                       : leftover.failure.empty() ? "removed"
                                                  : "NOT removed";
    fmt::print("{:<12} {:<20} {}{}\n", what, leftover.kind, leftover.path.string(),
               leftover.failure.empty() ? "" : " (" + leftover.failure + ")");
  }
  if (all.empty()) fmt::print("Nothing was left behind.\n");
  return exit_code;
}

}  // namespace espalier::app
