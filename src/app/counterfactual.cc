#include "app/counterfactual.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>

#include "app/checkpoint.h"
#include "app/collect.h"
#include "app/recorded_run.h"
#include "common/error.h"
#include "common/files.h"
#include "rollout/farm.h"
#include "tree/journal.h"
#include "tree/store.h"

namespace espalier::app {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kDirectory = "counterfactuals";

std::string name_of(const tree::Tree& tree, int node) {
  return std::to_string(tree.index) + "/" + (node < 0 ? "" : tree.nodes[node].path);
}

/// Refuses what no turn can follow.
void check_place(const RecordedRun& run, const tree::FoundNode& place) {
  if (place.node < 0) return;
  const tree::Tree& tree = place.found.tree;
  const tree::Node& node = tree.nodes[place.node];
  const std::string name = "replay from " + name_of(tree, place.node);
  const std::string before =
      node.parent < 0 ? "task-" + std::to_string(tree.index) : name_of(tree, node.parent);
  if (node.action.empty() || run.harness->parse(node.action).ends)
    throw common::ConfigError(name +
                              ": the episode ended there; name the turn before it: " + before);
  if (node.command_state == tree::CommandState::sent)
    throw common::ConfigError(
        name + ": its command was never answered; name the turn before it: " + before);
  const int limit = run.config.rollout.max_assistant_turns;
  const int task_limit = run.load_task(tree)->max_turns;
  const int max_turns = limit > 0 ? std::min(limit, task_limit) : task_limit;
  if (node.turn + 1 >= max_turns)
    throw common::ConfigError(
        fmt::format("{}: an episode of this task has {} turns, all of which "
                    "are over there; name an earlier one",
                    name, max_turns));
}

/// Context tokens between the node's action and the next.
std::vector<tree::Token> tokens_behind(const RecordedRun& run, const tree::Tree& tree, int node) {
  if (node < 0) return {};
  for (const tree::Node& child : tree.nodes)
    if (child.parent == node && !child.prompt_delta.empty()) return child.prompt_delta;
  envs::Observation observation;
  observation.output = tree.nodes[node].observation;
  return run.harness->observe(observation).tokens;
}

/// The first branch number that neither the run nor another counterfactual has used.
int free_branch(const fs::path& run, const tree::Tree& tree, int node) {
  const tree::NodeId parent = node < 0 ? tree.id : tree.nodes[node].id;
  int next = 0;
  const auto look = [&](const tree::Tree& seen) {
    for (const tree::Node& child : seen.nodes)
      if ((child.parent < 0 ? seen.id : seen.nodes[child.parent].id) == parent)
        next = std::max(next, child.branch + 1);
  };
  look(tree);
  for (const fs::path& one : list_counterfactuals(run))
    tree::visit_trees(one, [&](tree::RunTree&& found) {
      look(found.tree);
      return true;
    });
  return next;
}

/// RUN/counterfactuals/NNNN, made by nobody else.
fs::path make_directory(const fs::path& run) {
  fs::create_directories(run / kDirectory);
  for (int number = 1;; ++number) {
    fs::path directory = run / kDirectory / fmt::format("{:04}", number);
    std::error_code error;
    if (fs::create_directory(directory, error)) return directory;
    if (error) throw common::StoreError("create '" + directory.string() + "': " + error.message());
  }
}

fs::path checkpoint_of(const CounterfactualArguments& arguments, const RecordedRun& run) {
  if (!arguments.policy.empty()) return arguments.policy;
  fs::path newest = newest_checkpoint_path(run.directory);
  if (newest.empty())
    throw common::ConfigError("replay: '" + run.directory.root.string() +
                              "' has no checkpoint; say which policy goes on: --policy CHECKPOINT");
  return newest;
}

/// Steps of a checkpoint's directory "step_NNNNNN"; 0 of others.
uint64_t version_of(const fs::path& checkpoint) {
  std::string name = checkpoint.filename().string();
  if (name.empty()) name = checkpoint.parent_path().filename().string();
  const size_t digits = name.find_last_not_of("0123456789") + 1;
  uint64_t version = 0;
  std::from_chars(name.data() + digits, name.data() + name.size(), version);
  return version;
}

rollout::TreeRequest request_for(const CounterfactualArguments& arguments, const RecordedRun& run,
                                 const tree::FoundNode& place) {
  const tree::Tree& tree = place.found.tree;
  // Its files go with the task that was loaded.
  const envs::TaskPtr loaded = run.load_task(tree);
  const std::shared_ptr<envs::Task> task(new envs::Task(*loaded),
                                         [loaded](envs::Task* copy) { delete copy; });
  if (!arguments.prompt.empty()) task->instruction = common::read_file(arguments.prompt);
  rollout::TreeRequest request;
  request.index = tree.index;
  request.step = tree.step;
  request.roots = 1;
  request.may_fork = false;
  request.sampling = sampling_options(run.config, run.config.rollout.temperature);
  request.from = std::make_shared<rollout::Continuation>();
  for (int node : tree::path_to(tree, place.node)) request.from->path.push_back(tree.nodes[node]);
  request.from->delta = tokens_behind(run, tree, place.node);
  request.from->branch = free_branch(run.directory.root, tree, place.node);
  request.from->injected = arguments.action;
  if (arguments.prompt.empty() && run.harness->prompt(*task) != tree.prompt_tokens)
    throw common::StoreError("replay: task " + tree.task + " is not told as it was in the run");
  request.task = task;
  return request;
}

tree::Json edit_of(const CounterfactualArguments& arguments, const tree::FoundNode& place,
                   const fs::path& checkpoint) {
  const tree::Tree& tree = place.found.tree;
  const auto text = [](const std::string& value) {
    return value.empty() ? tree::Json(nullptr) : tree::Json(value);
  };
  return {{"what", "counterfactual"},
          {"tree", tree.index},
          {"node", (place.node < 0 ? tree.id : tree.nodes[place.node].id).full_hex()},
          {"path", place.node < 0 ? "" : tree.nodes[place.node].path},
          {"action", text(arguments.action)},
          {"policy", text(arguments.policy.string())},
          {"prompt", text(arguments.prompt.string())},
          {"checkpoint", checkpoint.string()}};
}

/// Wall-clock seconds from the beginning of the episode to the node's answer.
std::optional<double> recorded_seconds(const fs::path& run, const tree::Tree& tree, int node) {
  std::error_code error;
  if (node < 0 || !fs::is_directory(RunDirectory{run}.journal(), error)) return std::nullopt;
  const std::string root = tree::root_path(tree.nodes[tree::path_to(tree, node).front()].branch);
  std::optional<int64_t> start, end;
  tree::JournalReader reader(RunDirectory{run}.journal());
  while (const auto event = reader.next()) {
    if (event->tree_index != tree.index) continue;
    if (event->type == tree::EventType::episode_started && event->path == root)
      start = event->time_us;
    if (event->type == tree::EventType::observation && event->node == tree.nodes[node].id)
      end = event->time_us;
  }
  if (!start || !end || *end < *start) return std::nullopt;
  return 1e-6 * static_cast<double>(*end - *start);
}

std::optional<double> mean_reward_below(const tree::Tree& tree, int node) {
  double sum = 0;
  int count = 0;
  for (int leaf : tree.leaves()) {
    const std::vector<int> path = tree::path_to(tree, leaf);
    const bool below = node < 0 || std::find(path.begin(), path.end(), node) != path.end();
    if (!below || !tree.nodes[leaf].reward) continue;
    sum += *tree.nodes[leaf].reward;
    ++count;
  }
  return count == 0 ? std::nullopt : std::optional<double>(sum / count);
}

/// Rolls the branch out, with a journal of its own.
tree::Tree roll_out(const RecordedRun& run, const fs::path& directory, const Start& model,
                    uint64_t version, rollout::TreeRequest request, const tree::Json& edit) {
  const auto engine = policy::make_engine(model.weights, engine_options(run.config));
  engine->publish(model.weights, version);
  tree::JournalWriter journal(directory / "journal", tree::Durability::batch);
  tree::Event event;
  event.type = tree::EventType::intervention;
  event.tree_index = request.index;
  event.text = tree::dump(edit);
  event.time_us = std::chrono::duration_cast<std::chrono::microseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  journal.append(event);
  std::vector<tree::Tree> trees;
  {
    rollout::FarmParts parts;
    parts.backend = run.backend.get();
    parts.policy = engine.get();
    parts.tokenizer = run.tokenizer;
    parts.journal = &journal;
    rollout::FarmOptions options = farm_options(run.config);
    options.snapshots = rollout::KeepSnapshots::none;  // they would go into the run's store
    rollout::Farm farm(parts, options);
    std::vector<rollout::TreeRequest> requests;
    requests.push_back(std::move(request));
    trees = collect(farm, std::move(requests), {});
  }
  engine->close();
  journal.flush();
  tree::write_trees(tree::shard_path(directory, trees.front().step), trees);
  return std::move(trees.front());
}

int leaf_of(const tree::Tree& tree) { return static_cast<int>(tree.nodes.size()) - 1; }

}  // namespace

std::vector<fs::path> list_counterfactuals(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(run / kDirectory, error), end; !error && it != end;
       it.increment(error))
    if (fs::is_directory(it->path() / "journal")) found.push_back(it->path());
  std::sort(found.begin(), found.end());
  return found;
}

Counterfactual run_counterfactual(const CounterfactualArguments& arguments) {
  const tree::FoundNode place = tree::find_place(arguments.run, arguments.node);
  const RecordedRun run(arguments.run);
  check_place(run, place);
  const tree::Tree& tree = place.found.tree;
  Counterfactual result;
  result.checkpoint = checkpoint_of(arguments, run);
  const Start model = load_start(result.checkpoint);
  if (model.tokenizer->to_json() != run.tokenizer->to_json())
    throw common::ConfigError("replay --policy: '" + result.checkpoint.string() +
                              "' has another tokenizer than the run");
  rollout::TreeRequest request = request_for(arguments, run, place);
  Reopened reopened = reopen(run, place);
  result.opened = how_reopened(tree, place.node, reopened);
  result.run_again = reopened.executed.size();
  request.from->environment = std::move(reopened.environment);
  for (const tree::Node& node : request.from->path) {
    ++result.saved_turns;
    result.saved_tokens += node.action.size();
  }
  result.saved_s = recorded_seconds(arguments.run, tree, place.node);
  result.recorded_reward = mean_reward_below(tree, place.node);
  result.directory = make_directory(arguments.run);
  common::write_file_atomically(result.directory / "config.yaml", common::to_yaml(run.config));
  fs::create_directory_symlink("../../snapshots", result.directory / "snapshots");
  const auto start = Clock::now();
  result.tree.tree = roll_out(run, result.directory, model, version_of(result.checkpoint),
                              std::move(request), edit_of(arguments, place, result.checkpoint));
  result.spent_s = std::chrono::duration<double>(Clock::now() - start).count();
  result.node = static_cast<int>(result.saved_turns) - 1;
  return result;
}

tree::Json to_json(const Counterfactual& result) {
  const tree::Tree& tree = result.tree.tree;
  const tree::Node& leaf = tree.nodes[leaf_of(tree)];
  const auto optional = [](const std::optional<double>& value) {
    return value ? tree::Json(*value) : tree::Json(nullptr);
  };
  tree::Json turns = tree::Json::array();
  size_t tokens = 0;
  for (int i = result.node + 1; i <= leaf_of(tree); ++i) {
    turns.push_back(tree::node_json(result.tree, i, false));
    tokens += tree.nodes[i].action.size();
  }
  return {{"directory", result.directory.string()},
          {"from", name_of(tree, result.node)},
          {"checkpoint", result.checkpoint.string()},
          {"opened", result.opened},
          {"run_again", result.run_again},
          {"outcome", to_string(leaf.outcome)},
          {"reward", optional(leaf.reward)},
          {"failure", leaf.failure},
          {"recorded_reward", optional(result.recorded_reward)},
          {"saved",
           {{"turns", result.saved_turns},
            {"tokens", result.saved_tokens},
            {"seconds", optional(result.saved_s)}}},
          {"spent", {{"turns", turns.size()}, {"tokens", tokens}, {"seconds", result.spent_s}}},
          {"turns", turns}};
}

std::string to_text(const Counterfactual& result, const tree::TextOptions& options) {
  const tree::Tree& tree = result.tree.tree;
  const tree::Node& leaf = tree.nodes[leaf_of(tree)];
  std::string text = fmt::format("{}: {}\n", name_of(tree, result.node), result.opened);
  for (int i = result.node + 1; i <= leaf_of(tree); ++i) {
    const tree::Node& node = tree.nodes[i];
    text += fmt::format("  {}{}  $ {}\n", node.path, node.injected ? " (given)" : "",
                        tree::first_line(node.command, options.width));
    if (!node.observation.empty())
      text += "      " + tree::first_line(node.observation, options.width) + "\n";
  }
  text += fmt::format("{}{}", to_string(leaf.outcome),
                      leaf.reward ? fmt::format(" {:g}", *leaf.reward) : " " + leaf.failure);
  if (result.recorded_reward)
    text += fmt::format("; in the run, from there on: {:g} on average", *result.recorded_reward);
  text +=
      fmt::format("\nspared: {} turns, {} sampled tokens", result.saved_turns, result.saved_tokens);
  if (result.saved_s) text += fmt::format(", {:.2f} s", *result.saved_s);
  text += fmt::format("; run again: {} commands; the branch took {:.2f} s\n", result.run_again,
                      result.spent_s);
  return text + "kept apart from training in " + result.directory.string() + "\n";
}

void join_counterfactuals(const fs::path& run, std::vector<tree::Tree>& trees) {
  std::map<tree::NodeId, tree::Tree*> by_id;
  for (tree::Tree& tree : trees) by_id[tree.id] = &tree;
  for (const fs::path& one : list_counterfactuals(run)) {
    tree::visit_trees(one, [&](tree::RunTree&& found) {
      const auto target = by_id.find(found.tree.id);
      if (target == by_id.end() || found.state == tree::TreeState::unfinished) return true;
      tree::Tree& whole = *target->second;
      std::map<tree::NodeId, int> known;
      for (size_t i = 0; i < whole.nodes.size(); ++i)
        known[whole.nodes[i].id] = static_cast<int>(i);
      for (tree::Node node : found.tree.nodes) {
        if (known.contains(node.id)) continue;
        if (node.parent >= 0) node.parent = known.at(found.tree.nodes[node.parent].id);
        known[node.id] = static_cast<int>(whole.nodes.size());
        whole.nodes.push_back(std::move(node));
      }
      whole.canonicalise();
      return true;
    });
  }
}

}  // namespace espalier::app
