// espalier env: tasks in their sandboxes, without a policy.
#include <fmt/core.h>

#include <cctype>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/env_check.h"
#include "app/env_clean.h"
#include "app/env_exec.h"
#include "app/env_shell.h"
#include "app/env_terminal.h"
#include "app/session.h"
#include "common/error.h"
#include "common/stop.h"
#include "envs/agents.h"
#include "envs/nursery/nursery.h"

namespace espalier::app {
namespace {

namespace nursery = envs::nursery;

constexpr const char* kTaskHelp =
    "nursery:FAMILY/SEED, nursery:FAMILY/SEED/dDEPTH or a task directory";

constexpr const char* kInPlaceOfTheTasks = "in place of the task's: ";

/// What every env command works with; gone with the command.
struct Workbench {
  common::TempDir scratch{"espalier-env"};
  std::unique_ptr<envs::TaskSource> sources = envs::make_task_sources(scratch.path() / "tasks");
  std::unique_ptr<envs::Backend> backend = make_backend({}, scratch.path() / "snapshots");

  /// `image` takes the place of the task's, unless it is empty.
  envs::EnvironmentPtr start(const envs::Task& task, const std::string& image = "") {
    envs::EnvironmentSpec spec = task.environment;
    if (!image.empty()) spec.image = image;
    return common::await<envs::EnvironmentPtr>(
        [&](auto done) { backend->create(spec, std::move(done)); });
  }
};

std::vector<std::string> all_families() {
  std::vector<std::string> all;
  for (nursery::Tier tier : {nursery::Tier::base, nursery::Tier::hard, nursery::Tier::luck})
    for (std::string& family : nursery::families(tier)) all.push_back(std::move(family));
  return all;
}

/// What is there as a file or directory is meant as a path, also without "./".
void add_image_option(CLI::App* command, std::string* image, const std::string& when) {
  command
      ->add_option("--image", *image,
                   when +
                       "host, a root's directory or tarball, an OCI layout, a docker save "
                       "archive, a Dockerfile")
      ->transform([](const std::string& text) {
        std::error_code none;
        return text != envs::kHostImage && std::filesystem::exists(text, none)
                   ? std::filesystem::absolute(text).string()
                   : text;
      });
}

// ---- run ----

struct RunArguments {
  std::string task, agent = "oracle", image;
  bool as_json = false;
};

nlohmann::json run_as_json(const RunArguments& arguments, const envs::Task& task,
                           const envs::AgentRun& run) {
  nlohmann::json result = {
      {"task", task.name},
      {"agent", arguments.agent},
      {"reward", nullptr},
      {"verifier", {{"output", run.verdict.output}, {"duration_us", run.verdict.duration_us}}}};
  if (run.verdict.reward) result["reward"] = *run.verdict.reward;
  if (!run.verdict.failure.empty()) result["failure"] = run.verdict.failure;
  if (run.solution) {
    result["solution"] = {{"exit_code", run.solution->exit_code},
                          {"output", run.solution->output},
                          {"timed_out", run.solution->timed_out},
                          {"duration_us", run.solution->duration_us}};
  }
  return result;
}

void print_run(const RunArguments& arguments, const envs::Task& task, const envs::AgentRun& run) {
  constexpr double kMicrosecondsPerMillisecond = 1000.0;
  fmt::print("task     {}: {}\n", task.name, task.instruction);
  fmt::print("agent    {}", arguments.agent);
  if (run.solution) {
    fmt::print(", exit code {}{}, {:.0f} ms\n{}", run.solution->exit_code,
               run.solution->timed_out ? " (timed out)" : "",
               static_cast<double>(run.solution->duration_us) / kMicrosecondsPerMillisecond,
               run.solution->output);
  } else {
    fmt::print("\n");
  }
  if (run.verdict.reward) {
    fmt::print("reward   {:g} ({:.0f} ms)\n", *run.verdict.reward,
               static_cast<double>(run.verdict.duration_us) / kMicrosecondsPerMillisecond);
  } else {
    fmt::print("verifier failed: {}\n{}", run.verdict.failure, run.verdict.output);
  }
}

int run(const RunArguments& arguments) {
  envs::AgentKind agent = envs::parse_agent_kind(arguments.agent);
  Workbench bench;
  envs::TaskPtr task = bench.sources->load(arguments.task);
  envs::AgentRun result = envs::run_agent(*bench.start(*task, arguments.image), *task, agent);
  if (arguments.as_json) {
    fmt::print("{}\n", run_as_json(arguments, *task, result).dump(2));
  } else {
    print_run(arguments, *task, result);
  }
  return result.verdict.reward ? common::kExitOk : common::kExitFailure;
}

void add_run(CLI::App& env, int& exit_code) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command = env.add_subcommand(
      "run",
      "Run a task's own solution (oracle) or nothing (nop) in its sandbox, then its verifier");
  command->add_option("task", arguments->task, kTaskHelp)->required();
  command->add_option("--agent", arguments->agent, "who acts")
      ->check(CLI::IsMember({"oracle", "nop"}))
      ->capture_default_str();
  add_image_option(command, &arguments->image, kInPlaceOfTheTasks);
  command->add_flag("--json", arguments->as_json, "machine-readable");
  command->footer("Example: espalier env run nursery:maze/17/d2 --agent oracle");
  command->callback([arguments, &exit_code] { exit_code = run(*arguments); });
}

// ---- shell ----

int shell(const std::string& name, const std::string& image, bool on_terminal) {
  Workbench bench;
  envs::TaskPtr task = bench.sources->load(name);
  if (!on_terminal) return run_env_shell(*bench.start(*task, image), *task);
  envs::Task with_terminal = *task;
  with_terminal.environment.terminal = terminal_size_of_stdin();
  with_terminal.environment.limits.output_bytes = 0;  // a person sees all of it
  return run_env_terminal(*bench.start(with_terminal, image), *task);
}

void add_shell(CLI::App& env, int& exit_code) {
  auto task = std::make_shared<std::string>(), image = std::make_shared<std::string>();
  auto on_terminal = std::make_shared<bool>(false);
  CLI::App* command =
      env.add_subcommand("shell", "Sit in the agent's place: type commands into a task's sandbox");
  command->add_option("task", *task, kTaskHelp)->required();
  add_image_option(command, image.get(), kInPlaceOfTheTasks);
  command->add_flag("--terminal", *on_terminal,
                    "a whole terminal, key by key, in place of one command at a time");
  command->footer(
      "The prompt shows the last command's exit code unless it is 0. Ctrl-C ends the running "
      "command;\n"
      "`exit` or the end of input ends the session, and the verifier says what it was worth.");
  command->callback(
      [task, image, on_terminal, &exit_code] { exit_code = shell(*task, *image, *on_terminal); });
}

// ---- exec ----

void add_exec(CLI::App& env, int& exit_code) {
  auto arguments = std::make_shared<ExecArguments>();
  CLI::App* command =
      env.add_subcommand("exec", "Run one command in a fresh sandbox, without a task");
  command->add_option("command", arguments->command, "program and arguments, after --")->required();
  add_image_option(command, &arguments->image, "its root: ");
  command->add_flag("--root", arguments->as_root, "as the sandbox's root");
  command->add_option("--timeout", arguments->timeout_s, "seconds")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command->footer(
      "The exit code is the command's.\n"
      "Example: espalier env exec --image ./rootfs.tar.gz -- ls -l /");
  command->callback([arguments, &exit_code] {
    Workbench bench;
    exit_code = run_env_exec(*bench.backend, *arguments);
  });
}

// ---- check ----

struct CheckArguments {
  std::vector<std::string> tasks, families;
  bool all = false, as_json = false;
  int seeds = 4;
};

int check(const CheckArguments& arguments) {
  common::install_stop_handlers();
  std::vector<std::string> names = arguments.tasks;
  std::vector<std::string> families = arguments.families;
  if (arguments.all || (names.empty() && families.empty())) families = all_families();
  for (std::string& name : nursery_tasks(families, arguments.seeds))
    names.push_back(std::move(name));
  Workbench bench;
  std::vector<TaskCheck> checks = check_tasks(*bench.backend, *bench.sources, names);
  print_checks(checks, arguments.as_json);
  for (const TaskCheck& result : checks)
    if (!result.sound()) return common::kExitCheckFailed;
  return checks.size() < names.size() ? common::kExitInterrupted : common::kExitOk;
}

void add_check(CLI::App& env, int& exit_code) {
  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command = env.add_subcommand(
      "check", "Are tasks sound? Their solution must earn reward 1, and doing nothing reward 0");
  command->add_option("tasks", arguments->tasks, kTaskHelp);
  command->add_option("--family", arguments->families, "nursery families to check");
  command->add_flag("--all", arguments->all,
                    "every nursery family (the default when nothing is named)");
  command->add_option("-n,--seeds", arguments->seeds, "tasks a family, depths in turn")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command->add_flag("--json", arguments->as_json, "machine-readable");
  command->footer("Exit code 4 when a task is unsound.");
  command->callback([arguments, &exit_code] { exit_code = check(*arguments); });
}

// ---- transcripts ----

struct TranscriptArguments {
  std::vector<std::string> tasks;
  uint64_t seed = 1;
  bool markdown = false;
};

void print_transcript(Workbench& bench, const nursery::TaskId& id, bool markdown) {
  nursery::Blueprint blueprint = nursery::make_blueprint(id);
  envs::TaskPtr task = bench.sources->load(id.name());
  envs::EnvironmentPtr environment = bench.start(*task);
  if (markdown) {
    std::string summary = nursery::summary_of(id.family);
    summary[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(summary[0])));
    fmt::print("\n### {}\n{} (`{}`).\n```\n", id.family, summary, id.name());
  } else {
    fmt::print("# {} ({})\n", id.name(), nursery::summary_of(id.family));
  }
  fmt::print("{}\n", task->instruction);
  for (const envs::Turn& turn :
       envs::run_commands(*environment, blueprint.oracle, task->command_timeout_s)) {
    fmt::print("$ {}\n{}", turn.command, turn.observation.output);
  }
  fmt::print("{}", markdown ? "```\n" : "\n");
}

int transcripts(const TranscriptArguments& arguments) {
  constexpr int kShownDepth = 2;
  std::vector<nursery::TaskId> ids;
  for (const std::string& name : arguments.tasks) ids.push_back(nursery::parse_task_id(name));
  if (ids.empty())
    for (const std::string& family : all_families())
      ids.push_back({family, arguments.seed, kShownDepth});
  Workbench bench;
  for (const nursery::TaskId& id : ids) print_transcript(bench, id, arguments.markdown);
  return common::kExitOk;
}

void add_transcripts(CLI::App& env, int& exit_code) {
  auto arguments = std::make_shared<TranscriptArguments>();
  CLI::App* command = env.add_subcommand(
      "transcripts", "Print sessions in which the oracle solves nursery tasks, one a family");
  command->add_option("tasks", arguments->tasks, "nursery tasks (default: one of each family)");
  command->add_option("--seed", arguments->seed, "seed of the default tasks")
      ->capture_default_str();
  command->add_flag("--markdown", arguments->markdown, "as docs/nursery.md shows them");
  command->callback([arguments, &exit_code] { exit_code = transcripts(*arguments); });
}

// ---- clean ----

void add_clean(CLI::App& env, int& exit_code) {
  struct Arguments {
    bool dry_run = false, as_json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = env.add_subcommand(
      "clean",
      "Remove what killed processes left: control groups, temporary directories, containers");
  command->add_flag("-n,--dry-run", arguments->dry_run, "list only");
  command->add_flag("--json", arguments->as_json, "machine-readable");
  command->footer(
      "Every start of sandboxes does this too. Nothing of a living process is touched.");
  command->callback([arguments, &exit_code] {
    exit_code = run_env_clean(arguments->dry_run, arguments->as_json);
  });
}

}  // namespace

void add_env_command(CLI::App& app, int& exit_code) {
  CLI::App* env =
      app.add_subcommand("env", "Run, try and check tasks in their sandboxes, without a policy");
  env->require_subcommand(1);
  add_run(*env, exit_code);
  add_shell(*env, exit_code);
  add_exec(*env, exit_code);
  add_check(*env, exit_code);
  add_transcripts(*env, exit_code);
  add_clean(*env, exit_code);
}

}  // namespace espalier::app
