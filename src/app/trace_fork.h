// espalier trace fork: a shell in a recorded state of a run.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace espalier::app {

struct ForkArguments {
  std::filesystem::path run;
  std::string node;
  std::vector<std::string> command;  // one: a line for the shell; more: words of one; none: stdin
  double timeout_s = 600;            // of a command
  bool json = false;                 // needs a command
};

/// Opens the environment as it was at the node; nothing of it changes the run. Without a command it
/// is a shell for a person. Returns the process's exit code: with a command its own. Errors:
/// ConfigError, StoreError, SandboxError.
int fork_at(const ForkArguments& arguments);

}  // namespace espalier::app
