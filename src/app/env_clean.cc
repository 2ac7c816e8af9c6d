#include "app/env_clean.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "envs/sandbox/leftovers.h"

namespace espalier::app {

int run_env_clean(bool dry_run, bool as_json) {
  const std::vector<envs::Leftover> all = envs::sweep_leftovers(!dry_run);
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
