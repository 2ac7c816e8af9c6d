// espalier eval: success of a checkpoint on tasks.
#include <fmt/core.h>

#include "app/commands.h"
#include "app/evaluate.h"
#include "common/error.h"
#include "common/files.h"
#include "common/log.h"
#include "common/stop.h"
#include "common/version.h"
#include "envs/nursery/nursery.h"
#include "policy/model_io.h"

namespace espalier::app {

namespace {

struct EvalArguments {
  std::string checkpoint, config, split = "eval", output;
  std::vector<std::string> tasks, families;
  int attempts = 1, n = 320, depth_min = 1, depth_max = 4, max_live = 0;
  double temperature = 1.0;
  uint64_t seed = 1;
  bool deterministic = false, json = false;
};

std::vector<std::string> chosen_tasks(const EvalArguments& arguments) {
  if (!arguments.tasks.empty()) return arguments.tasks;
  const envs::nursery::Draw draw{arguments.families, arguments.depth_min, arguments.depth_max};
  const auto split =
      arguments.split == "test" ? envs::nursery::Split::test : envs::nursery::Split::eval;
  std::vector<std::string> tasks;
  for (int i = 0; i < arguments.n; ++i) {
    tasks.push_back(envs::nursery::draw_task(split, 0, static_cast<uint64_t>(i), draw).name());
  }
  return tasks;
}

void check(const EvalArguments& arguments) {
  if (!std::filesystem::exists(arguments.checkpoint)) {
    throw common::ConfigError(
        fmt::format("eval: checkpoint '{}' does not exist; expected a directory with config.json, "
                    "model.safetensors and tokenizer.json",
                    arguments.checkpoint));
  }
  const std::filesystem::path output = arguments.output;
  if (output.has_parent_path() && !std::filesystem::is_directory(output.parent_path())) {
    throw common::ConfigError(fmt::format("eval: --output '{}': there is no directory '{}'",
                                          output.string(), output.parent_path().string()));
  }
}

/// The limits (rollout, env) of the file named, else of the run that the checkpoint lies in, else
/// the defaults; the rest as the arguments say.
common::Config config_of(const EvalArguments& arguments) {
  std::filesystem::path file = arguments.config;
  if (file.empty()) {
    const auto run = std::filesystem::absolute(arguments.checkpoint) / ".." / "..";
    file = (run / "config.yaml").lexically_normal();
    if (!std::filesystem::exists(file)) file.clear();
  }
  common::Config config;
  if (!file.empty()) {
    const common::Config limits = common::load_config(file, {});
    config.rollout = limits.rollout;
    config.env = limits.env;
    config.env.inject_delay_ms = 0;
  }
  config.model.path = arguments.checkpoint;
  config.seed = arguments.seed;
  config.deterministic = arguments.deterministic;
  if (arguments.max_live > 0) config.rollout.max_live = arguments.max_live;
  return config;
}

int eval(const EvalArguments& arguments) {
  check(arguments);
  const common::Config config = config_of(arguments);
  common::install_stop_handlers();
  common::init_logging({}, false);
  const Start start = start_point(config);
  Session session(config, SessionOptions{nullptr, start.weights, start.tokenizer});
  EvalRequest request;
  request.tasks = chosen_tasks(arguments);
  request.attempts = arguments.attempts;
  request.temperature = arguments.temperature;
  request.label = "evaluation";
  const EvalResult result = evaluate(session, request);
  nlohmann::json json = result.to_json();
  json["checkpoint"] = arguments.checkpoint;
  json["temperature"] = arguments.temperature;
  json["attempts"] = arguments.attempts;
  json["seed"] = arguments.seed;
  json["version"] = common::kVersion;
  if (arguments.json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}", result.table());
    for (size_t k = 1; k <= result.pass_at_k.size(); ++k)
      fmt::print("  pass@{:<9} {:>22.3f}\n", k, result.pass_at_k[k - 1]);
  }
  if (!arguments.output.empty())
    common::write_file_atomically(arguments.output, json.dump(2) + "\n");
  return common::kExitOk;
}

}  // namespace

void add_eval_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command =
      app.add_subcommand("eval", "Success of a checkpoint on tasks: mean ± SE, pass@k, by family");
  command->add_option("checkpoint", arguments->checkpoint, "Hugging Face-shaped directory")
      ->required();
  command->add_option("--tasks", arguments->tasks,
                      "task names or directories (default: the nursery's held-out set)");
  command->add_option("--families", arguments->families,
                      "nursery families (default: the base tier)");
  command->add_option("--split", arguments->split, "nursery split")
      ->check(CLI::IsMember({"eval", "test"}))
      ->capture_default_str();
  command->add_option("-n,--num-tasks", arguments->n, "tasks drawn from the nursery")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--depth-min", arguments->depth_min, "least depth")
      ->check(CLI::Range(envs::nursery::kMinDepth, envs::nursery::kMaxDepth))
      ->capture_default_str();
  command->add_option("--depth-max", arguments->depth_max, "greatest depth")
      ->check(CLI::Range(envs::nursery::kMinDepth, envs::nursery::kMaxDepth))
      ->capture_default_str();
  command->add_option("-k,--attempts", arguments->attempts, "episodes a task")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--temperature", arguments->temperature, "0: greedy")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  command
      ->add_option("--config", arguments->config,
                   "take the limits (rollout, env) from this file (default: the run's that the "
                   "checkpoint lies in)")
      ->check(CLI::ExistingFile);
  command
      ->add_option("--max-live", arguments->max_live,
                   "environments at once (default: as configured)")
      ->check(CLI::Range(1, 100000));
  command->add_option("--seed", arguments->seed, "of the sampling")->capture_default_str();
  command->add_flag("--deterministic", arguments->deterministic,
                    "lock-step rounds: same seed, same result");
  command->add_option("-o,--output", arguments->output,
                      "also write the figures as JSON to this file");
  command->add_flag("--json", arguments->json, "print JSON");
  command->callback([arguments, &exit_code] { exit_code = eval(*arguments); });
}

}  // namespace espalier::app
