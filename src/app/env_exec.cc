#include "app/env_exec.h"

#include <fmt/core.h>

#include <cstdio>
#include <utility>

#include "common/error.h"
#include "common/result.h"
#include "envs/agents.h"

namespace espalier::app {

int run_env_exec(envs::Backend& backend, const ExecArguments& arguments) {
  envs::EnvironmentSpec spec;
  spec.image = arguments.image;
  spec.limits.output_bytes = 0;  // a person sees all of it
  auto environment = common::await<envs::EnvironmentPtr>(
      [&](auto done) { backend.create(std::move(spec), std::move(done)); });
  envs::ExecSpec exec;
  exec.argv = arguments.command;
  exec.as_root = arguments.as_root;
  auto seen = common::await<envs::Observation>([&](auto done) {
    environment->exec(exec, envs::deadline_after(arguments.timeout_s), std::move(done));
  });
  std::fwrite(seen.output.data(), 1, seen.output.size(), stdout);
  if (!seen.timed_out) return seen.exit_code;
  std::fflush(stdout);
  fmt::print(stderr, "espalier: killed after {:g} s (--timeout)\n", arguments.timeout_s);
  return common::kExitFailure;
}

}  // namespace espalier::app
