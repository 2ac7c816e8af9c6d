// espalier env check: is every task sound? Its own solution must earn reward 1 and doing nothing
// reward 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/task.h"

namespace espalier::app {

/// What one task's two agents earned.
struct TaskCheck {
  std::string task;
  std::string family;  // "-" for task directories without one
  envs::Verdict oracle, nop;
  double seconds = 0;  // of both, environments included

  bool sound() const { return oracle.reward == 1.0 && nop.reward == 0.0; }
};

/// The tasks of `seeds` seeds of each family, depths in turn.
std::vector<std::string> nursery_tasks(const std::vector<std::string>& families, int seeds);

/// Runs both agents on every task, a fresh environment each, with a progress line on stderr. Stops
/// early, with what is done, when the process was asked to stop. Errors: TaskError, SandboxError.
std::vector<TaskCheck> check_tasks(envs::Backend& backend, envs::TaskSource& sources,
                                   const std::vector<std::string>& tasks);

/// A table by family, then a line for each unsound task; or JSON.
void print_checks(const std::vector<TaskCheck>& checks, bool as_json);

}  // namespace espalier::app
