// Tasks: what one episode is about, whichever source it came from.
//
// A task is an ordinary directory in the Harbor shape (reference: Harbor task format 1.x):
//   task.toml, instruction.md, environment/files/…, tests/test.sh, solution/solve.sh
// One runner serves every source; the nursery's procedural tasks are materialised into such
// directories.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"

namespace espalier::envs {

struct Task {
  std::string name;                 // "nursery:find/17/d2", or the directory's name
  std::filesystem::path directory;  // holds everything; read-only for the runner
  std::string instruction;          // what the agent is told
  int max_turns = 32;               // commands an episode may take, the closing `exit` included
  double command_timeout_s = 10.0;
  double agent_timeout_s = 600.0;  // of the whole episode
  EnvironmentSpec environment;
  VerifierSpec verifier;
  std::filesystem::path solution;               // solve.sh; empty: none
  std::map<std::string, std::string> metadata;  // "family", "depth", "tier", … for tables
};

using TaskPtr = std::shared_ptr<const Task>;

/// Loads one task by name. Thread contract: load() may be called from any thread.
class TaskSource {
 public:
  virtual ~TaskSource() = default;
  /// True when this source understands the name ("nursery:…", an existing directory).
  virtual bool serves(const std::string& name) const = 0;
  /// Errors: TaskError naming the task, the value seen and what is allowed.
  virtual TaskPtr load(const std::string& name) = 0;
};

/// All sources behind one load(): the nursery (materialised under `scratch`) and task directories.
std::unique_ptr<TaskSource> make_task_sources(const std::filesystem::path& scratch);

/// Reads a task directory. Errors: TaskError with file and reason.
TaskPtr load_task_directory(const std::filesystem::path& directory);

}  // namespace espalier::envs
