#include "app/env_check.h"

#include <fmt/core.h>

#include <map>
#include <nlohmann/json.hpp>

#include "app/progress.h"
#include "common/stop.h"
#include "envs/agents.h"
#include "envs/nursery/nursery.h"

namespace espalier::app {
namespace {

envs::Verdict judge(envs::Backend& backend, const envs::Task& task, envs::AgentKind agent) {
  envs::EnvironmentPtr environment = common::await<envs::EnvironmentPtr>(
      [&](auto done) { backend.create(task.environment, std::move(done)); });
  return envs::run_agent(*environment, task, agent).verdict;
}

std::string earned(const envs::Verdict& verdict) {
  return verdict.reward ? fmt::format("{:g}", *verdict.reward) : verdict.failure;
}

struct FamilyRow {
  int tasks = 0, sound = 0;
  double oracle = 0, nop = 0, seconds = 0;
};

void print_table(const std::vector<TaskCheck>& checks) {
  std::vector<std::string> order;
  std::map<std::string, FamilyRow> rows;
  for (const TaskCheck& check : checks) {
    if (!rows.contains(check.family)) order.push_back(check.family);
    FamilyRow& row = rows[check.family];
    ++row.tasks;
    row.sound += check.sound();
    row.oracle += check.oracle.reward.value_or(0);
    row.nop += check.nop.reward.value_or(0);
    row.seconds += check.seconds;
  }
  fmt::print("{:<12} {:>6} {:>7} {:>6} {:>6} {:>8}\n", "family", "tasks", "oracle", "nop", "sound",
             "ms/task");
  for (const std::string& family : order) {
    const FamilyRow& row = rows[family];
    fmt::print("{:<12} {:>6} {:>7.2f} {:>6.2f} {:>6} {:>8.0f}\n", family, row.tasks,
               row.oracle / row.tasks, row.nop / row.tasks, row.sound == row.tasks ? "yes" : "NO",
               1000 * row.seconds / row.tasks);
  }
}

nlohmann::json as_json_value(const envs::Verdict& verdict) {
  nlohmann::json value = {{"reward", nullptr}, {"output", verdict.output}};
  if (verdict.reward) value["reward"] = *verdict.reward;
  if (!verdict.failure.empty()) value["failure"] = verdict.failure;
  return value;
}

}  // namespace

std::vector<std::string> nursery_tasks(const std::vector<std::string>& families, int seeds) {
  namespace nursery = envs::nursery;
  std::vector<std::string> names;
  for (const std::string& family : families) {
    nursery::tier_of(family);  // refuses an unknown family before any work
    for (int seed = 0; seed < seeds; ++seed) {
      int depth = nursery::kMinDepth + seed % (nursery::kMaxDepth - nursery::kMinDepth + 1);
      names.push_back(nursery::TaskId{family, static_cast<uint64_t>(seed), depth}.name());
    }
  }
  return names;
}

std::vector<TaskCheck> check_tasks(envs::Backend& backend, envs::TaskSource& sources,
                                   const std::vector<std::string>& tasks) {
  std::vector<TaskCheck> checks;
  Progress progress("check", static_cast<double>(tasks.size()), "tasks");
  for (const std::string& name : tasks) {
    if (common::stop_requested()) return checks;
    envs::TaskPtr task = sources.load(name);
    envs::Clock::time_point start = envs::Clock::now();
    TaskCheck check;
    check.task = task->name;
    auto family = task->metadata.find("family");
    check.family = family == task->metadata.end() ? "-" : family->second;
    check.oracle = judge(backend, *task, envs::AgentKind::oracle);
    check.nop = judge(backend, *task, envs::AgentKind::nop);
    check.seconds = std::chrono::duration<double>(envs::Clock::now() - start).count();
    checks.push_back(std::move(check));
    progress.update(static_cast<double>(checks.size()), name);
  }
  return checks;
}

void print_checks(const std::vector<TaskCheck>& checks, bool as_json) {
  if (as_json) {
    nlohmann::json list = nlohmann::json::array();
    for (const TaskCheck& check : checks) {
      list.push_back({{"task", check.task},
                      {"family", check.family},
                      {"oracle", as_json_value(check.oracle)},
                      {"nop", as_json_value(check.nop)},
                      {"sound", check.sound()},
                      {"seconds", check.seconds}});
    }
    fmt::print("{}\n", list.dump(2));
    return;
  }
  print_table(checks);
  for (const TaskCheck& check : checks) {
    if (check.sound()) continue;
    fmt::print("unsound: {}: oracle earned {} (must be 1), nop earned {} (must be 0)\n{}{}",
               check.task, earned(check.oracle), earned(check.nop), check.oracle.output,
               check.nop.output);
  }
}

}  // namespace espalier::app
