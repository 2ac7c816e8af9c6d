// espalier train, sft and rollout: the commands that make a run directory.
#include <fmt/core.h>

#include "app/algorithm.h"
#include "app/commands.h"
#include "app/trainer.h"
#include "common/error.h"
#include "common/log.h"
#include "common/stop.h"
#include "policy/model_io.h"

namespace espalier::app {

namespace {

struct RunArguments {
  std::string config;
  std::vector<std::string> overrides;
  bool dry_run = false, resume = false, verbose = false;
};

void add_run_arguments(CLI::App& command, RunArguments& arguments) {
  command
      .add_option("config", arguments.config,
                  "YAML file (configs/*.yaml; keys: espalier help config)")
      ->required();
  command.add_option("overrides", arguments.overrides,
                     "key=value …, as in learner.optim.lr=1e-4 seed=3");
  command.add_flag("--dry-run", arguments.dry_run,
                   "print the resolved configuration and the plan, do nothing");
  command.add_flag("-v,--verbose", arguments.verbose, "log to the terminal too");
}

void print_plan(const common::Config& config) {
  const auto estimator = estimator_of(config);
  const auto rule = fork_rule_of(config);
  const Start start = start_point(config);
  const int steps = config.trainer.total_steps, trees = config.data.train_batch_size;
  const bool forks = config.algorithm.tree.fork_rule != "none";
  fmt::print("{}\n# Plan\n", common::to_yaml(config));
  fmt::print("#  model        {} parameters, {} tokens of vocabulary\n",
             policy::shape_of(start.weights).parameters(), start.tokenizer->vocab_size());
  if (config.sft.episodes > 0 && config.model.path.empty()) {
    fmt::print("#  warm start   {} demonstrations, {} steps of {}\n", config.sft.episodes,
               config.sft.steps, config.sft.batch_size);
  }
  fmt::print("#  training     at most {} steps of {} trees, {} roots each{}\n", steps, trees,
             config.rollout.n,
             forks ? fmt::format(", up to {} forks into {}", config.algorithm.tree.max_forks,
                                 config.algorithm.tree.branches)
                   : "");
  if (config.budget.limit > 0)
    fmt::print("#  budget       {:.0f} {}\n", config.budget.limit, config.budget.unit);
  if (config.eval.n > 0) {
    fmt::print("#  evaluation   {} held-out tasks before,{} and after{}\n", config.eval.n,
               config.trainer.test_freq > 0
                   ? fmt::format(" every {} steps", config.trainer.test_freq)
                   : "",
               config.eval.greedy ? ", sampled and greedy" : "");
  }
  for (const std::string& warning : algorithm_warnings(*estimator, *rule))
    fmt::print("#  warning      {}\n", warning);
  fmt::print("#  output       {}/{}\n", config.run_dir, config.name);
}

void print_summary(const RunDirectory& run) {
  const nlohmann::json json = nlohmann::json::parse(common::read_file(run.summary()));
  auto line = [](const char* when, const nlohmann::json& eval) {
    if (eval.is_null()) return;
    fmt::print("  success {:<7} {:.3f} ± {:.3f}", when, eval["mean"].get<double>(),
               eval["se"].get<double>());
    if (eval.contains("greedy_mean"))
      fmt::print("   greedy {:.3f} ± {:.3f}", eval["greedy_mean"].get<double>(),
                 eval["greedy_se"].get<double>());
    fmt::print("   ({} held-out tasks)\n", eval["n"].get<size_t>());
  };
  const nlohmann::json& budget = json["budget"];
  fmt::print("\n{} (seed {}, {} steps)\n", run.root.string(), json["seed"].get<uint64_t>(),
             json["steps"].get<uint64_t>());
  line("before", json["eval"]["before"]);
  line("after", json["eval"]["after"]);
  fmt::print(
      "  budget          {:.0f} generated tokens, {:.0f} environment steps, {:.0f} forks, {:.0f} "
      "s\n",
      budget["generated_tokens"].get<double>(), budget["env_steps"].get<double>(),
      budget["forks"].get<double>(), json["wall_s"]["total"].get<double>());
  if (const nlohmann::json& limit = json["budget_limit"]; limit["limit"].get<double>() > 0)
    fmt::print("  limit           {:.6g} {}, beyond it by {:.6g}\n", limit["limit"].get<double>(),
               limit["unit"].get<std::string>(), limit["overshoot"].get<double>());
  fmt::print("  report          {}\n", run.report().string());
}

RunStart open_run(const common::Config& config, const RunArguments& arguments) {
  common::install_stop_handlers();
  common::init_logging({}, arguments.verbose);
  RunStart start =
      arguments.resume ? resume_run(arguments.config, arguments.overrides) : new_run(config);
  common::init_logging(start.run.log(), arguments.verbose);
  fmt::print("Run directory: {}\n", start.run.root.string());
  if (arguments.resume) {
    fmt::print("Resuming {}\n", start.checkpoint
                                    ? fmt::format("after step {}", start.checkpoint->state.step)
                                    : "from the beginning: there is no checkpoint yet");
  }
  std::fflush(stdout);
  return start;
}

using Work = void (*)(Trainer& trainer, const RunDirectory& run);

/// What the three commands share: the configuration, --dry-run, the run directory.
int with_run(const RunArguments& arguments, Work work) {
  const common::Config config = common::load_config(arguments.config, arguments.overrides);
  if (arguments.dry_run) {
    print_plan(config);
    return common::kExitOk;
  }
  RunStart start = open_run(config, arguments);
  const RunDirectory run = start.run;
  Trainer trainer(std::move(start));
  work(trainer, run);
  return common::kExitOk;
}

void train(Trainer& trainer, const RunDirectory& run) {
  trainer.run();
  print_summary(run);
}

void warm_start_only(Trainer& trainer, const RunDirectory& run) {
  trainer.run_warm_start();
  fmt::print("Warm start: {}\n", (run.checkpoints() / "step_000000").string());
}

void rollout_only(Trainer& trainer, const RunDirectory& run) {
  trainer.run_rollouts();
  fmt::print("Trees: {}   look at them with: espalier trace log {}\n", run.trees().string(),
             run.root.string());
}

}  // namespace

void add_train_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command = app.add_subcommand("train", "Train a policy on trees of rollouts");
  add_run_arguments(*command, *arguments);
  command->add_flag("--resume", arguments->resume,
                    "go on with the newest run of this name from its newest checkpoint, as it was "
                    "configured and with the overrides given now");
  command->footer(
      "Examples:\n"
      "  espalier train configs/quickstart.yaml seed=7 --dry-run\n"
      "  espalier train configs/quickstart.yaml seed=7\n"
      "  espalier train runs/quickstart/config.yaml --resume     after Ctrl-C or a crash");
  command->callback([arguments, &exit_code] { exit_code = with_run(*arguments, train); });
}

void add_sft_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command =
      app.add_subcommand("sft", "Warm start only: behaviour cloning on oracle demonstrations");
  add_run_arguments(*command, *arguments);
  command->callback([arguments, &exit_code] { exit_code = with_run(*arguments, warm_start_only); });
}

void add_rollout_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command = app.add_subcommand(
      "rollout", "Roll out trees without training (model.path=CHECKPOINT names the policy)");
  add_run_arguments(*command, *arguments);
  command->callback([arguments, &exit_code] { exit_code = with_run(*arguments, rollout_only); });
}

}  // namespace espalier::app
