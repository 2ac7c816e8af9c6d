// espalier bench fork|soak|learner|estimators|rollout: figures with machine, versions and n.
#include <fmt/core.h>

#include <functional>

#include "app/bench_estimators.h"
#include "app/bench_figures.h"
#include "app/bench_fork.h"
#include "app/bench_learner.h"
#include "app/bench_soak.h"
#include "app/bench_store.h"
#include "app/collect.h"
#include "app/commands.h"
#include "app/machine.h"
#include "app/session.h"
#include "common/error.h"
#include "common/log.h"
#include "common/stop.h"
#include "common/version.h"
#include "envs/nursery/nursery.h"
#include "policy/device.h"

namespace espalier::app {

namespace {

using Json = nlohmann::json;

/// The farm with an untrained policy: prefix sharing on (the farm's way) and what it saved.
Json bench_rollout(int trees, bool deterministic) {
  common::Config config;
  config.deterministic = deterministic;
  const Start start = start_point(config);
  Session session(config, SessionOptions{nullptr, start.weights, start.tokenizer});
  std::vector<rollout::TreeRequest> requests;
  for (int i = 0; i < trees; ++i) {
    const auto id =
        envs::nursery::draw_task(envs::nursery::Split::train, 1, static_cast<uint64_t>(i), {});
    rollout::TreeRequest request;
    request.task = session.tasks->load(id.name());
    request.index = static_cast<uint64_t>(i);
    request.sampling = sampling_options(config, 1.0);
    requests.push_back(std::move(request));
  }
  double ms = 0;
  ms = milliseconds([&] { collect(*session.farm, std::move(requests), {"bench rollout", {}}); });
  const tree::Spend spend = session.ledger.total();
  const double seconds = ms / 1000;
  const double prefill = static_cast<double>(spend.prefill_tokens),
               cached = static_cast<double>(spend.cached_prefill_tokens);
  return {{"seconds", seconds},
          {"episodes_per_s", static_cast<double>(spend.leaves) / seconds},
          {"commands_per_s", static_cast<double>(spend.env_steps) / seconds},
          {"generated_tokens_per_s", static_cast<double>(spend.generated_tokens) / seconds},
          {"forks", spend.forks},
          {"cached_prefill_share", prefill + cached > 0 ? cached / (prefill + cached) : 0},
          {"infra_failures", spend.infra_failures},
          {"n", trees}};
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  struct Arguments {
    bool json = false, deterministic = false;
    int trees = 32;
    ForkBench fork;
    Soak soak;
    LearnerBenchArguments learner;
    EstimatorBenchArguments estimators;
    tree::StoreBench store;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* bench = app.add_subcommand("bench", "Figures with machine, versions and n");
  bench->require_subcommand(1);
  auto add = [&](const char* name, const char* help, const std::function<Json()>& work) {
    CLI::App* command = bench->add_subcommand(name, help);
    command->add_flag("--json", arguments->json, "machine-readable");
    command->callback([arguments, work, &exit_code] {
      common::install_stop_handlers();
      common::init_logging({}, false);
      policy::set_torch_threads(1);
      Json figures = work();
      figures["machine"] = describe_machine();
      figures["kernel"] = figures["machine"]["kernel"];
      figures["versions"] = {{"espalier", common::kVersion}, {"torch", policy::torch_version()}};
      figures["command_line"] = command_line();
      print_figures(figures, arguments->json);
      exit_code = common::stop_requested() ? common::kExitInterrupted : common::kExitOk;
      if (figures.contains("leaks") && !figures["leaks"].empty())
        exit_code = common::kExitCheckFailed;
    });
    return command;
  };
  CLI::App* fork =
      add("fork", "Sandboxes: fork, cold start, commands, snapshots, memory, and their baselines",
          [arguments] { return bench_fork(arguments->fork); });
  fork->add_option("-n,--repetitions", arguments->fork.repetitions, "rounds of each figure")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  fork->add_option("--kept", arguments->fork.kept, "forks kept while their memory is measured")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  fork->add_option("--engine-image", arguments->fork.engine_image,
                   "image for the container engine's commit + run + exec")
      ->capture_default_str();
  fork->add_option("--only", arguments->fork.only, "parts to measure (default: all)")
      ->check(CLI::IsMember(fork_bench_parts()))
      ->delimiter(',');
  CLI::App* soak = add("soak", "Many forks and starts, after which nothing may be left",
                       [arguments] { return run_soak(arguments->soak); });
  soak->add_option("--forks", arguments->soak.forks, "forks")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  soak->add_option("--starts", arguments->soak.starts, "cold starts")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  soak->footer(
      "Exit code 4 when processes, mounts, descriptors or control groups are left, or over "
      "5 % of memory.");
  CLI::App* store =
      add("store", "Journal and store: appending, verifying, bytes, opening one tree of many",
          [arguments] { return measure_store(arguments->store); });
  store->add_option("--events", arguments->store.events, "events of 300 bytes to append")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  store->add_option("--verify-bytes", arguments->store.verify_bytes, "bytes of journal to verify")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  store->add_option("--trees", arguments->store.trees, "trees to open one of")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  store->add_option("--directory", arguments->store.directory,
                    "for the files: 5 GB (default: the system's temporary directory)");
  CLI::App* learner =
      add("learner", "A training step: packed trees against linearised paths, and plain dense ones",
          [arguments] { return bench_learner(arguments->learner); });
  add_learner_options(*learner, arguments->learner);
  CLI::App* estimators = add(
      "estimators", "Bias and signal-to-noise of every estimator under every fork rule, exactly",
      [arguments] { return bench_estimators(arguments->estimators); });
  add_estimator_options(*estimators, arguments->estimators);
  CLI::App* rollout =
      add("rollout", "The farm on nursery tasks with an untrained policy",
          [arguments] { return bench_rollout(arguments->trees, arguments->deterministic); });
  rollout->add_option("-n,--trees", arguments->trees, "trees of 8 roots")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  rollout->add_flag("--deterministic", arguments->deterministic, "lock-step rounds");
}

}  // namespace espalier::app
