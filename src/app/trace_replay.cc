#include "app/trace_replay.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "app/collect.h"
#include "app/progress.h"
#include "app/recorded_run.h"
#include "app/trace_snapshots.h"
#include "common/error.h"
#include "rollout/farm.h"
#include "tree/trace_text.h"
#include "tree/volatile_text.h"

namespace espalier::app {
namespace {

constexpr size_t kBatch = 32;          // trees replayed together
constexpr size_t kShownFiles = 8;      // of a state that differs
constexpr const char* kExit = "exit";  // ends a path that was cut off

/// What one replay of a node showed.
struct Seen {
  std::string output;
  int exit_code = 0;
  bool timed_out = false;
  std::string snapshot;
  std::optional<double> reward;
  std::string end;  // set: the replay went no further, for this reason
};

/// A tree and all that its replays showed, by recorded node.
struct Replayed {
  tree::Tree recorded;
  std::vector<std::vector<int>> paths;  // nodes of each path that were run, the last may be `exit`
  std::vector<std::vector<Seen>> seen;
  bool again = false;
};

/// Up to where the record says what came of it.
std::vector<int> replayable(const tree::Tree& tree, int leaf) {
  std::vector<int> nodes;
  for (int index : tree::path_to(tree, leaf)) {
    const tree::Node& node = tree.nodes[index];
    if (node.action.empty() || node.command_state == tree::CommandState::sent) break;
    nodes.push_back(index);
  }
  return nodes;
}

int root_of(const tree::Tree& tree, int node) {
  const std::vector<int> path = tree::path_to(tree, node);
  return tree.nodes[path.front()].branch;
}

rollout::TreeRequest request_for(const RecordedRun& run, const Replayed& replayed) {
  const tree::Tree& tree = replayed.recorded;
  rollout::TreeRequest request;
  request.task = run.load_task(tree);
  request.index = tree.index;
  request.step = tree.step;
  request.roots = static_cast<int>(replayed.paths.size());
  request.may_fork = false;
  std::vector<std::vector<std::string>> commands;
  for (const auto& path : replayed.paths) {
    commands.emplace_back();
    for (int node : path) commands.back().push_back(tree.nodes[node].command);
    request.judged_as.push_back(root_of(tree, path.front()));
  }
  request.script = [commands](int root) -> rollout::Script {
    return [list = commands[static_cast<size_t>(root)], next = size_t{0}]() mutable {
      return next < list.size() ? list[next++] : std::string(kExit);
    };
  };
  return request;
}

/// The nodes of the replay's path number `root`, in order.
std::vector<const tree::Node*> chain(const tree::Tree& tree, int root) {
  std::vector<const tree::Node*> nodes;
  for (const tree::Node& node : tree.nodes) {
    const bool first = nodes.empty() && node.parent < 0 && node.branch == root;
    const bool next =
        !nodes.empty() && node.parent >= 0 && &tree.nodes[node.parent] == nodes.back();
    if (first || next) nodes.push_back(&node);
  }
  return nodes;
}

void take_in(Replayed& replayed, const tree::Tree& replay) {
  replayed.seen.resize(replayed.recorded.nodes.size());
  for (size_t p = 0; p < replayed.paths.size(); ++p) {
    const auto nodes = chain(replay, static_cast<int>(p));
    for (size_t i = 0; i < replayed.paths[p].size(); ++i) {
      auto& all = replayed.seen[static_cast<size_t>(replayed.paths[p][i])];
      if (i >= nodes.size() || nodes[i]->action.empty()) {
        const tree::Node* last = nodes.empty() ? nullptr : nodes.back();
        Seen nothing;
        nothing.end =
            last ? std::string(to_string(last->outcome)) + " " + last->failure : "nothing was run";
        all.push_back(std::move(nothing));
        break;
      }
      const tree::Node& node = *nodes[i];
      Seen seen{node.observation, node.exit_code, node.timed_out, node.snapshot, {}, ""};
      if (i + 1 == replayed.paths[p].size()) seen.reward = nodes.back()->reward;
      if (node.command_state == tree::CommandState::sent)
        seen.end = std::string(to_string(node.outcome)) + " " + node.failure;
      all.push_back(std::move(seen));
    }
  }
}

std::string number(double value) { return fmt::format("{:g}", value); }

/// How one replay of a node differs from the record; nullopt: not.
std::optional<Divergence> difference(const tree::Node& node, bool was_run, const Seen& seen) {
  Divergence found;
  found.path = node.path;
  found.command = node.command;
  const auto set = [&](const char* what, std::string recorded, std::string replayed) {
    found.what = what;
    found.recorded = std::move(recorded);
    found.replayed = std::move(replayed);
    return found;
  };
  if (!seen.end.empty()) return set("end", "it was run", seen.end);
  if (was_run) {
    const std::string recorded = rollout::without_line_numbers(node.observation);
    const std::string replayed = rollout::without_line_numbers(seen.output);
    if (recorded != replayed) return set("output", recorded, replayed);
    if (node.timed_out != seen.timed_out)
      return set("timeout", node.timed_out ? "timed out" : "in time",
                 seen.timed_out ? "timed out" : "in time");
    if (node.exit_code != seen.exit_code)
      return set("exit code", std::to_string(node.exit_code), std::to_string(seen.exit_code));
    if (!node.snapshot.empty() && !seen.snapshot.empty() && node.snapshot != seen.snapshot)
      return set("files", node.snapshot, seen.snapshot);
  }
  if (node.reward && seen.reward && *node.reward != *seen.reward)
    return set("reward", number(*node.reward), number(*seen.reward));
  return std::nullopt;
}

/// Whether two replays showed the same, where `what` is looked at.
bool alike(const Divergence& a, const std::optional<Divergence>& b) {
  return b && a.what == b->what && a.replayed == b->replayed;
}

/// Why the difference is nothing that the commands are to blame for; empty: it is real.
std::string excuse(const Divergence& found, const std::vector<std::optional<Divergence>>& others) {
  if (found.what == "output") {
    const tree::Masked recorded = tree::mask_volatile(found.recorded);
    if (!recorded.kinds.empty() && recorded.text == tree::mask_volatile(found.replayed).text) {
      std::string kinds;
      for (const std::string& kind : recorded.kinds) kinds += (kinds.empty() ? "" : ", ") + kind;
      return kinds;
    }
  }
  if (found.what == "timeout") return "time a command takes";
  for (const auto& other : others)
    if (!alike(found, other)) return "differs from replay to replay";
  return "";
}

void name_changed_files(const RecordedRun& run, Divergence& found) {
  std::string files;
  try {
    const auto changed = changed_files({run.directory.snapshots(), found.recorded},
                                       {run.scratch.path() / "snapshots", found.replayed});
    for (size_t i = 0; i < std::min(changed.size(), kShownFiles); ++i) files += changed[i] + "\n";
    if (changed.size() > kShownFiles)
      files += fmt::format("and {} more\n", changed.size() - kShownFiles);
    if (changed.empty()) files = "no file; the shell's own state (variables, functions, directory)";
  } catch (const common::StoreError& error) {
    files = error.what();
  }
  found.replayed += "\n" + files;
}

TreeReplay judge(const RecordedRun& run, const Replayed& replayed) {
  TreeReplay result;
  const tree::Tree& tree = replayed.recorded;
  result.index = tree.index;
  result.task = tree.task;
  result.paths = static_cast<int>(replayed.paths.size());
  for (size_t i = 0; i < replayed.seen.size(); ++i) {
    const tree::Node& node = tree.nodes[i];
    const auto& all = replayed.seen[i];
    if (all.empty()) continue;
    const bool was_run = rollout::was_run(*run.harness, node);
    result.commands += was_run;
    result.states += !node.snapshot.empty() && !all.front().snapshot.empty();
    result.rewards += node.reward && all.front().reward;
    std::vector<std::optional<Divergence>> differences;
    for (const Seen& seen : all) differences.push_back(difference(node, was_run, seen));
    const auto first = std::find_if(differences.begin(), differences.end(),
                                    [](const auto& found) { return found.has_value(); });
    if (first == differences.end()) continue;
    Divergence found = **first;
    found.node = static_cast<int>(i);
    found.why = excuse(found, differences);
    found.is_volatile = !found.why.empty();
    if (found.what == "files") name_changed_files(run, found);
    (found.is_volatile ? result.volatile_ones : result.real) += 1;
    if (!result.first || (result.first->is_volatile && !found.is_volatile))
      result.first = std::move(found);
  }
  return result;
}

/// Replays trees in batches; a batch's memory is all it needs.
class Replayer {
 public:
  Replayer(const std::filesystem::path& root, const std::function<void(const TreeReplay&)>& done)
      : run_(root, SnapshotPlace::scratch), done_(done), bar_("replay", 0, "trees") {}

  bool add(tree::RunTree&& found) {
    Replayed replayed;
    replayed.recorded = std::move(found.tree);
    for (int leaf : replayed.recorded.leaves())
      if (auto path = replayable(replayed.recorded, leaf); !path.empty())
        replayed.paths.push_back(std::move(path));
    if (replayed.paths.empty()) return true;
    batch_.push_back(std::move(replayed));
    if (batch_.size() >= kBatch) flush();
    return true;
  }

  void flush() {
    if (batch_.empty()) return;
    replay([](const Replayed&) { return true; });
    for (Replayed& replayed : batch_) replayed.again = judge(run_, replayed).real > 0;
    replay([](const Replayed& replayed) { return replayed.again; });
    bar_.clear();
    for (const Replayed& replayed : batch_) done_(judge(run_, replayed));
    finished_ += batch_.size();
    batch_.clear();
    bar_.update(static_cast<double>(finished_));
  }

 private:
  template <class Chosen>
  void replay(const Chosen& chosen) {
    std::map<uint64_t, Replayed*> by_index;
    std::vector<rollout::TreeRequest> requests;
    bool snapshots = false;
    for (Replayed& replayed : batch_) {
      if (!chosen(replayed)) continue;
      by_index[replayed.recorded.index] = &replayed;
      requests.push_back(request_for(run_, replayed));
      for (const tree::Node& node : replayed.recorded.nodes) snapshots |= !node.snapshot.empty();
    }
    if (requests.empty()) return;
    rollout::FarmOptions options = farm_options(run_.config);
    options.snapshots = snapshots ? rollout::KeepSnapshots::all : rollout::KeepSnapshots::none;
    rollout::Farm farm({.backend = run_.backend.get(), .tokenizer = run_.tokenizer}, options);
    CollectOptions collecting;
    collecting.on_tick = [&] { bar_.update(static_cast<double>(finished_)); };
    for (const tree::Tree& tree : collect(farm, std::move(requests), collecting))
      take_in(*by_index.at(tree.index), tree);
  }

  RecordedRun run_;
  const std::function<void(const TreeReplay&)>& done_;
  Progress bar_;
  std::vector<Replayed> batch_;
  size_t finished_ = 0;
};

std::string indented(const std::string& text, const char* mark) {
  std::string out;
  const std::string safe = tree::printable(text);
  for (size_t start = 0; start <= safe.size();) {
    const size_t end = std::min(safe.find('\n', start), safe.size());
    if (end > start || start == 0) out += mark + safe.substr(start, end - start) + "\n";
    start = end + 1;
  }
  return out;
}

}  // namespace

void replay_run(const std::filesystem::path& run, const std::string& tree,
                const std::function<void(const TreeReplay&)>& done) {
  Replayer replayer(run, done);
  if (tree.empty()) {
    tree::visit_trees(run, [&](tree::RunTree&& found) { return replayer.add(std::move(found)); });
  } else {
    replayer.add(tree::find_tree(run, tree));
  }
  replayer.flush();
}

tree::Json to_json(const TreeReplay& replay) {
  tree::Json json{{"tree", replay.index},       {"task", replay.task},
                  {"paths", replay.paths},      {"commands", replay.commands},
                  {"states", replay.states},    {"rewards", replay.rewards},
                  {"real", replay.real},        {"volatile", replay.volatile_ones},
                  {"first_divergence", nullptr}};
  if (!replay.first) return json;
  const Divergence& first = *replay.first;
  json["first_divergence"] = {{"path", first.path},
                              {"command", first.command},
                              {"what", first.what},
                              {"recorded", first.recorded},
                              {"replayed", first.replayed},
                              {"kind", first.is_volatile ? "volatile" : "real"},
                              {"why", first.why}};
  return json;
}

std::string to_text(const TreeReplay& replay) {
  std::string text = fmt::format(
      "{:>6}  {} paths, {} commands, {} states, {} rewards  {}: ", replay.index, replay.paths,
      replay.commands, replay.states, replay.rewards, tree::printable(replay.task));
  if (!replay.first) return text + "as recorded\n";
  const Divergence& first = *replay.first;
  text += fmt::format("{} real and {} volatile divergences; the first{}: {} of {}/{}{}\n",
                      replay.real, replay.volatile_ones, first.is_volatile ? "" : " real one",
                      first.what, replay.index, first.path,
                      first.is_volatile ? ", volatile (" + first.why + ")" : "");
  return text + "          $ " + tree::first_line(first.command, 80) + "\n" +
         indented(first.recorded, "        - ") + indented(first.replayed, "        + ");
}

}  // namespace espalier::app
