// espalier env shell --terminal: a person at the agent's terminal.
#pragma once

#include "envs/environment.h"
#include "envs/task.h"

namespace espalier::app {

/// Joins the caller's terminal to the session's, key by key, until the session ends or Ctrl-] is
/// typed; then prints the verifier's reward. The caller's terminal is in raw mode meanwhile; its
/// size is the session's. Returns the process's exit code. Errors: SandboxError; ConfigError when
/// stdin is no terminal.
int run_env_terminal(envs::Environment& environment, const envs::Task& task);

/// Of the terminal that is stdin; the default where it is none.
envs::TerminalSize terminal_size_of_stdin();

}  // namespace espalier::app
