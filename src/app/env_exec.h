// espalier env exec: one command in a fresh sandbox, without a task.
#pragma once

#include <string>
#include <vector>

#include "envs/environment.h"

namespace espalier::app {

struct ExecArguments {
  std::string image = envs::kHostImage;
  std::vector<std::string> command;
  bool as_root = false;
  double timeout_s = 60;
};

/// Prints the command's output and returns its exit code; common::kExitFailure when it was killed
/// for its time. Errors: as Backend::create and Environment::exec.
int run_env_exec(envs::Backend& backend, const ExecArguments& arguments);

}  // namespace espalier::app
