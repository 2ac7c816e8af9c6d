// espalier bench fork|learner|rollout: figures with machine, versions and n.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "app/collect.h"
#include "app/commands.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/session.h"
#include "common/error.h"
#include "common/log.h"
#include "common/stop.h"
#include "envs/nursery/nursery.h"
#include "learner/learner.h"
#include "policy/device.h"

namespace espalier::app {

namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

double milliseconds(const std::function<void()>& work) {
  const auto start = SteadyClock::now();
  work();
  return std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count();
}

Json spread(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  const size_t p95 = std::min(values.size() - 1, values.size() * 95 / 100);
  return {{"median", values[values.size() / 2]}, {"p95", values[p95]}, {"n", values.size()}};
}

void print_figures(const Json& figures, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", figures.dump(2));
    return;
  }
  for (const auto& [name, value] : figures.items()) {
    if (value.is_object() && value.contains("median")) {
      fmt::print("  {:<28} median {:>9.3f}   p95 {:>9.3f}   n {}\n", name,
                 value["median"].get<double>(), value["p95"].get<double>(),
                 value["n"].get<size_t>());
    } else {
      fmt::print("  {:<28} {}\n", name,
                 value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

envs::Deadline soon() { return envs::Clock::now() + std::chrono::seconds(20); }

envs::Observation run(envs::Environment& environment, const std::string& command) {
  return common::await<envs::Observation>(
      [&](auto done) { environment.run(command, soon(), std::move(done)); });
}

/// The sandbox: cold start, commands, fork by value and its baseline — a cold start that executes
/// the prefix again.
Json bench_fork(int repetitions) {
  const common::TempDir scratch("espalier-bench");
  common::Config config;
  const std::unique_ptr<envs::Backend> backend = make_backend(config, scratch.path());
  auto create = [&] {
    return common::await<envs::EnvironmentPtr>(
        [&](auto done) { backend->create({}, std::move(done)); });
  };
  const std::vector<std::string> prefix = {"mkdir -p a/b", "cd a/b",
                                           "for i in 1 2 3 4 5 6 7 8; do echo $i > f$i; done",
                                           "x=42", "cat f1 f2 f3 | sort -r > sorted"};
  std::vector<double> cold, fork, again, builtin, external, snapshot, open;
  Progress bar("bench fork", repetitions, "rounds");
  for (int i = 0; i < repetitions && !common::stop_requested(); ++i) {
    envs::EnvironmentPtr parent, child, second, opened;
    cold.push_back(milliseconds([&] {
      parent = create();
      run(*parent, ":");
    }));
    for (const std::string& command : prefix) run(*parent, command);
    builtin.push_back(milliseconds([&] { run(*parent, ":"); }));
    external.push_back(milliseconds([&] { run(*parent, "/bin/true"); }));
    fork.push_back(milliseconds([&] {
      child = common::await<envs::Fork>([&](auto done) { parent->fork(std::move(done)); }).child;
      run(*child, ":");
    }));
    again.push_back(milliseconds([&] {
      second = create();
      for (const std::string& command : prefix) run(*second, command);
      run(*second, ":");
    }));
    envs::SnapshotId id;
    snapshot.push_back(milliseconds([&] {
      id = common::await<envs::SnapshotId>([&](auto done) { parent->snapshot(std::move(done)); });
    }));
    open.push_back(milliseconds([&] {
      opened = common::await<envs::EnvironmentPtr>(
          [&](auto done) { backend->open(id, std::move(done)); });
      run(*opened, ":");
    }));
    bar.update(i + 1, "");
  }
  bar.finish("");
  Json figures = {{"kind", "value"},
                  {"cold_start_ms", spread(cold)},
                  {"command_round_trip_ms", spread(external)},
                  {"builtin_round_trip_ms", spread(builtin)},
                  {"value_fork_ms", spread(fork)},
                  {"reexecute_ms", spread(again)},
                  {"snapshot_ms", spread(snapshot)},
                  {"open_ms", spread(open)}};
  if (!fork.empty()) {
    figures["ratio_reexecute"] = figures["reexecute_ms"]["median"].get<double>() /
                                 figures["value_fork_ms"]["median"].get<double>();
  }
  return figures;
}

Json bench_learner(const learner::LearnerBench& bench) {
  common::Config config;
  config.model.max_position_embeddings = 4096;
  const Start start = start_point(config);
  const learner::LearnerFigures figures = learner::bench_learner(start.weights, bench);
  const double token_ratio =
      static_cast<double>(figures.tokens_linear) / static_cast<double>(figures.tokens_packed);
  const double speedup = figures.linear_ms / figures.packed_ms;
  return {{"tokens_packed", figures.tokens_packed},
          {"tokens_linear", figures.tokens_linear},
          {"token_ratio", token_ratio},
          {"packed_ms", figures.packed_ms},
          {"linear_ms", figures.linear_ms},
          {"speedup", speedup},
          {"share_of_bound", speedup / token_ratio},
          {"tokens_per_s", figures.packed_tokens_per_s},
          {"n", bench.repetitions}};
}

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
    int repetitions = 50, trees = 32;
    learner::LearnerBench learner;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* bench = app.add_subcommand("bench", "Figures with machine, versions and n");
  bench->require_subcommand(1);
  auto add = [&](const char* name, const char* help, std::function<Json()> work) {
    CLI::App* command = bench->add_subcommand(name, help);
    command->add_flag("--json", arguments->json, "machine-readable");
    command->callback([arguments, work, &exit_code] {
      common::install_stop_handlers();
      common::init_logging({}, false);
      policy::set_torch_threads(1);
      Json figures = work();
      figures["machine"] = describe_machine();
      print_figures(figures, arguments->json);
      exit_code = common::stop_requested() ? common::kExitInterrupted : common::kExitOk;
    });
    return command;
  };
  add("fork", "Sandboxes: cold start, commands, fork, snapshot; baseline: re-executing the prefix",
      [arguments] { return bench_fork(arguments->repetitions); })
      ->add_option("-n,--repetitions", arguments->repetitions, "rounds")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI::App* learner =
      add("learner", "One forward and backward pass: packed trees against linearised paths",
          [arguments] { return bench_learner(arguments->learner); });
  learner->add_option("--trees", arguments->learner.trees, "trees in the batch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  learner->add_option("--turns", arguments->learner.turns, "turns of an episode")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  learner->add_option("--branches", arguments->learner.branches, "K")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  learner->add_option("-n,--repetitions", arguments->learner.repetitions, "passes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI::App* rollout =
      add("rollout", "The farm on nursery tasks with an untrained policy",
          [arguments] { return bench_rollout(arguments->trees, arguments->deterministic); });
  rollout->add_option("-n,--trees", arguments->trees, "trees of 8 roots")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  rollout->add_flag("--deterministic", arguments->deterministic, "lock-step rounds");
}

}  // namespace espalier::app
