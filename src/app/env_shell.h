// A person in the agent's place.
#pragma once

#include "envs/environment.h"
#include "envs/task.h"

namespace espalier::app {

/// Reads command lines from stdin and runs each in the environment, printing its output; the prompt
/// shows the last exit code. Ctrl-C ends the command that runs. `exit`, end of input or the loss of
/// the shell ends the session. Gives the last command's observation. Takes over SIGINT. Errors:
/// SandboxError.
envs::Observation run_command_lines(envs::Environment& environment, double timeout_s);

/// espalier env shell: run_command_lines() on a task; at the end the verifier's reward is printed.
/// Returns the process's exit code. Errors: SandboxError.
int run_env_shell(envs::Environment& environment, const envs::Task& task);

}  // namespace espalier::app
