// The two agents that need no policy: `oracle` runs a task's own solution, `nop` does nothing. A
// sound task gives the first reward 1 and the second 0.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/task.h"

namespace espalier::envs {

enum class AgentKind { oracle, nop };
const char* to_string(AgentKind kind);
/// Errors: TaskError naming the agents there are.
AgentKind parse_agent_kind(const std::string& name);

struct AgentRun {
  std::optional<Observation> solution;  // what solve.sh did; nullopt for nop
  Verdict verdict;
};

/// Runs the agent in a fresh environment of the task, then the verifier; blocks until both are
/// done. As in Harbor, the oracle's solution/ is uploaded to /solution and solve.sh runs in the
/// working directory as the agent's user, within the task's agent timeout; the verifier follows
/// whatever became of it. Errors: TaskError (oracle without a solution), SandboxError.
AgentRun run_agent(Environment& environment, const Task& task, AgentKind agent);

/// One command and what came of it.
struct Turn {
  std::string command;
  Observation observation;
};

/// Gives the commands to the environment's shell one after another, each within `timeout_s`; ends
/// early when the shell is gone. Blocks. Errors: SandboxError.
std::vector<Turn> run_commands(Environment& environment, const std::vector<std::string>& commands,
                               double timeout_s);

/// The moment `seconds` from now.
Deadline deadline_after(double seconds);

}  // namespace espalier::envs
