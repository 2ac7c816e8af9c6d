#include "app/recorded_run.h"

#include <fmt/core.h>

#include <algorithm>

#include "common/error.h"
#include "envs/agents.h"
#include "policy/model_io.h"
#include "tree/trace_text.h"

namespace espalier::app {
namespace {

namespace fs = std::filesystem;

constexpr size_t kShownDigits = 12;  // of a snapshot's id

common::Config config_of(const fs::path& root) {
  tree::check_run(root);
  const RunDirectory directory{root};
  std::error_code error;
  if (!fs::exists(directory.config(), error))
    throw common::ConfigError(
        fmt::format("run '{}': it has no config.yaml, so its environments cannot be made again",
                    root.string()));
  return common::load_config(directory.config(), {});
}

envs::EnvironmentPtr start(const RecordedRun& run, const tree::Tree& tree) {
  const envs::TaskPtr task = run.load_task(tree);
  const envs::EnvironmentSpec spec = rollout::episode_environment(*task, farm_options(run.config));
  return common::await<envs::EnvironmentPtr>(
      [&](auto done) { run.backend->create(spec, std::move(done)); });
}

/// Null: the snapshot is gone or damaged; `why` says so.
envs::EnvironmentPtr open_snapshot(const RecordedRun& run, const std::string& id,
                                   std::string& why) {
  try {
    return common::await<envs::EnvironmentPtr>(
        [&](auto done) { run.backend->open({id}, std::move(done)); });
  } catch (const common::StoreError& error) {
    why = error.what();
    return nullptr;
  }
}

void run_again(const RecordedRun& run, const tree::Tree& tree, const std::vector<int>& nodes,
               Reopened& reopened) {
  const double timeout_s =
      std::min(run.config.rollout.command_timeout_s, run.load_task(tree)->command_timeout_s);
  for (int index : nodes) {
    const tree::Node& node = tree.nodes[index];
    const auto seen = common::await<envs::Observation>([&](auto done) {
      reopened.environment->run(node.command, envs::deadline_after(timeout_s), std::move(done));
    });
    reopened.executed.push_back(index);
    if (!rollout::shows_the_same(*run.harness, seen, node)) reopened.differed.push_back(index);
    if (seen.shell_exited)
      throw common::SandboxError(
          fmt::format("{}: the shell is gone after '{}', as it was in the run", node.path,
                      tree::first_line(node.command, 60)));
  }
}

}  // namespace

policy::TokenizerPtr newest_tokenizer(const fs::path& run) {
  fs::path newest;
  std::error_code error;
  for (fs::recursive_directory_iterator it(RunDirectory{run}.checkpoints(), error), end;
       !error && it != end; it.increment(error))
    if (it->path().filename() == "tokenizer.json" && it->path() > newest) newest = it->path();
  return newest.empty() ? nullptr : policy::Tokenizer::load(newest);
}

RecordedRun::RecordedRun(const fs::path& root, SnapshotPlace snapshots)
    : directory{root},
      config(config_of(root)),
      tokenizer(newest_tokenizer(root)),
      tasks(envs::make_task_sources(scratch.path() / "tasks")),
      backend(make_backend(config, snapshots == SnapshotPlace::run
                                       ? directory.snapshots()
                                       : scratch.path() / "snapshots")) {
  if (!tokenizer) tokenizer = start_point(config).tokenizer;
  harness = rollout::make_bash_harness(tokenizer, config.rollout.max_observation_length,
                                       config.deterministic);
}

Reopened reopen(const RecordedRun& run, const tree::FoundNode& place) {
  const tree::Tree& tree = place.found.tree;
  std::vector<int> path = tree::path_to(tree, place.node), after;
  Reopened reopened;
  while (!path.empty() && !reopened.environment) {
    const tree::Node& node = tree.nodes[path.back()];
    if (!node.snapshot.empty()) {
      std::string why;
      reopened.environment = open_snapshot(run, node.snapshot, why);
      if (reopened.environment) {
        reopened.snapshot = node.snapshot;
        reopened.snapshot_node = path.back();
        break;
      }
      if (reopened.passed_over.empty()) reopened.passed_over = why;
    }
    if (rollout::was_run(*run.harness, node)) after.push_back(path.back());
    path.pop_back();
  }
  if (!reopened.environment) reopened.environment = start(run, tree);
  std::reverse(after.begin(), after.end());
  run_again(run, tree, after, reopened);
  return reopened;
}

std::string how_reopened(const tree::Tree& tree, int node, const Reopened& reopened) {
  std::string text = "from the task's start";
  if (!reopened.snapshot.empty()) {
    const bool own = reopened.snapshot_node == node;
    text = fmt::format(
        "from {} {}",
        own ? "its snapshot" : "the snapshot of " + tree.nodes[reopened.snapshot_node].path + ",",
        reopened.snapshot.substr(0, kShownDigits));
  }
  if (!reopened.executed.empty())
    text += fmt::format(", {} command{} run again", reopened.executed.size(),
                        reopened.executed.size() == 1 ? "" : "s");
  for (int differed : reopened.differed)
    text +=
        fmt::format("\nwarning: '{}' ({}) showed something else than in the run",
                    tree::first_line(tree.nodes[differed].command, 60), tree.nodes[differed].path);
  if (!reopened.passed_over.empty())
    text += "\nnote: a nearer snapshot was not opened: " + reopened.passed_over;
  return text;
}

}  // namespace espalier::app
