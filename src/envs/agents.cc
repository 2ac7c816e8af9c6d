#include "envs/agents.h"

#include <utility>

#include "common/error.h"
#include "common/files.h"

namespace espalier::envs {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSolutionDirectory = "/solution";

void upload_solution(Environment& environment, const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::string place = (kSolutionDirectory / entry.path().lexically_relative(directory)).string();
    common::await<common::Done>([&](Completion<common::Done> done) {
      environment.put_file(place, common::read_file(entry.path()), 0755, std::move(done));
    });
  }
}

Observation run_solution(Environment& environment, const Task& task) {
  if (task.solution.empty())
    throw common::TaskError("task '" + task.name + "' has no solution/solve.sh for the oracle");
  upload_solution(environment, task.solution.parent_path());
  ExecSpec spec;
  spec.argv = {std::string(kSolutionDirectory) + "/" + task.solution.filename().string()};
  spec.variables = task.environment.variables;
  spec.variables["DEBIAN_FRONTEND"] = "noninteractive";
  return common::await<Observation>([&](Completion<Observation> done) {
    environment.exec(std::move(spec), deadline_after(task.agent_timeout_s), std::move(done));
  });
}

}  // namespace

const char* to_string(AgentKind kind) { return kind == AgentKind::oracle ? "oracle" : "nop"; }

AgentKind parse_agent_kind(const std::string& name) {
  if (name == "oracle") return AgentKind::oracle;
  if (name == "nop") return AgentKind::nop;
  throw common::TaskError("unknown agent '" + name + "'; agents: oracle, nop");
}

Deadline deadline_after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

AgentRun run_agent(Environment& environment, const Task& task, AgentKind agent) {
  AgentRun run;
  if (agent == AgentKind::oracle) run.solution = run_solution(environment, task);
  run.verdict = common::await<Verdict>(
      [&](Completion<Verdict> done) { environment.verify(task.verifier, std::move(done)); });
  return run;
}

std::vector<Turn> run_commands(Environment& environment, const std::vector<std::string>& commands,
                               double timeout_s) {
  std::vector<Turn> turns;
  for (const std::string& command : commands) {
    Observation observation = common::await<Observation>([&](Completion<Observation> done) {
      environment.run(command, deadline_after(timeout_s), std::move(done));
    });
    turns.push_back({command, std::move(observation)});
    if (turns.back().observation.shell_exited) break;
  }
  return turns;
}

}  // namespace espalier::envs
