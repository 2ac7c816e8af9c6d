#include "tree/run_trees.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <vector>

#include "common/error.h"
#include "tree/journal.h"
#include "tree/store.h"

namespace espalier::tree {
namespace {

constexpr size_t kMinIdDigits = 4;
constexpr size_t kMaxIdDigits = 64;
constexpr size_t kMaxCandidates = 5;  // named in the message when an id is ambiguous

void check_run(const std::filesystem::path& run) {
  std::error_code error;
  if (!std::filesystem::is_directory(run, error))
    throw common::ConfigError("run '" + run.string() + "': no such directory");
  if (!std::filesystem::is_directory(run / "trees", error) &&
      !std::filesystem::is_directory(run / "journal", error))
    throw common::ConfigError("run '" + run.string() +
                              "': not a run directory (it has neither trees/ nor journal/)");
}

/// "3/r2/t5" → 3 and "r2/t5".
std::optional<std::pair<uint64_t, std::string>> split_tree_path(const std::string& name) {
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return std::nullopt;
  uint64_t index = 0;
  auto [stop, error] = std::from_chars(name.data(), name.data() + slash, index);
  if (error != std::errc() || stop != name.data() + slash) return std::nullopt;
  return std::pair(index, name.substr(slash + 1));
}

FoundNode find_by_path(const std::filesystem::path& run, uint64_t index, const std::string& path) {
  RunTree found = find_tree(run, index);
  for (size_t i = 0; i < found.tree.nodes.size(); ++i) {
    const std::string& seen = found.tree.nodes[i].path;
    if (seen == path || seen == path + "/t0") return {std::move(found), static_cast<int>(i)};
  }
  std::string paths = "it has no nodes yet";
  if (!found.tree.nodes.empty())
    paths = "its nodes run from " + found.tree.nodes.front().path + " to " +
            found.tree.nodes.back().path;
  throw common::ConfigError("node '" + std::to_string(index) + "/" + path + "': tree " +
                            std::to_string(index) + " has no such node; " + paths);
}

FoundNode find_by_id(const std::filesystem::path& run, const std::string& prefix) {
  std::optional<FoundNode> first;
  std::vector<std::string> candidates;
  visit_trees(run, [&](RunTree&& tree) {
    for (size_t i = 0; i < tree.tree.nodes.size(); ++i) {
      const Node& node = tree.tree.nodes[i];
      if (!node.id.full_hex().starts_with(prefix)) continue;
      candidates.push_back(node.id.hex() + " (" + std::to_string(tree.tree.index) + "/" +
                           node.path + ")");
      if (!first) first = FoundNode{tree, static_cast<int>(i)};
    }
    return candidates.size() <= kMaxCandidates;
  });
  if (!first) throw common::ConfigError("node '" + prefix + "': no node of the run has such an id");
  if (candidates.size() == 1) return std::move(*first);
  std::string names;
  for (size_t i = 0; i < std::min(candidates.size(), kMaxCandidates); ++i)
    names += (i ? ", " : "") + candidates[i];
  if (candidates.size() > kMaxCandidates) names += " and others";
  throw common::ConfigError("node '" + prefix + "': the id is ambiguous: " + names);
}

}  // namespace

const char* to_string(TreeState state) {
  switch (state) {
    case TreeState::stored:
      return "stored";
    case TreeState::sealed:
      return "sealed";
    case TreeState::unfinished:
      return "unfinished";
  }
  return "unknown";
}

void visit_trees(const std::filesystem::path& run, const std::function<bool(RunTree&&)>& visit) {
  check_run(run);
  std::set<uint64_t> stored;
  for (const auto& shard : list_shards(run)) {
    for (Tree& tree : read_trees(shard)) {
      stored.insert(tree.index);
      if (!visit({std::move(tree), TreeState::stored})) return;
    }
  }
  std::error_code error;
  if (!std::filesystem::is_directory(run / "journal", error)) return;
  std::string damage;
  for (RecoveredTree& recovered : recover_trees(run / "journal", stored, &damage)) {
    const TreeState state = recovered.sealed ? TreeState::sealed : TreeState::unfinished;
    if (!visit({std::move(recovered.tree), state})) return;
  }
  if (!damage.empty())
    throw common::StoreError("read journal " + damage + "; what was written behind it is lost");
}

RunTree find_tree(const std::filesystem::path& run, uint64_t index) {
  std::optional<RunTree> found;
  size_t count = 0;
  visit_trees(run, [&](RunTree&& tree) {
    ++count;
    if (tree.tree.index == index) found = std::move(tree);
    return !found;
  });
  if (found) return std::move(*found);
  throw common::ConfigError("tree " + std::to_string(index) + ": run '" + run.string() +
                            "' has no such tree; it has " + std::to_string(count) +
                            " (see `espalier trace log`)");
}

FoundNode find_node(const std::filesystem::path& run, const std::string& name) {
  if (auto place = split_tree_path(name)) return find_by_path(run, place->first, place->second);
  std::string prefix = name;
  std::transform(prefix.begin(), prefix.end(), prefix.begin(),
                 [](unsigned char digit) { return static_cast<char>(std::tolower(digit)); });
  if (prefix.size() < kMinIdDigits || prefix.size() > kMaxIdDigits ||
      prefix.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw common::ConfigError("node '" + name + "': allowed are the first " +
                              std::to_string(kMinIdDigits) + " to " + std::to_string(kMaxIdDigits) +
                              " hex digits of an id, or TREE/PATH as in 3/r2/t5/b1");
  return find_by_id(run, prefix);
}

TreeSummary summarise(const RunTree& run_tree) {
  const Tree& tree = run_tree.tree;
  TreeSummary summary;
  summary.index = tree.index;
  summary.step = tree.step;
  summary.task = tree.task;
  summary.state = run_tree.state;
  summary.roots = static_cast<int>(tree.roots().size());
  summary.turns = static_cast<int>(tree.nodes.size());
  for (const auto& children : tree.children()) summary.forks += children.size() > 1;
  double sum = 0;
  int rewarded = 0;
  for (int leaf : tree.leaves()) {
    const Node& node = tree.nodes[leaf];
    ++summary.leaves;
    ++summary.outcomes[node.outcome];
    if (!node.reward) continue;
    sum += *node.reward;
    ++rewarded;
  }
  if (rewarded > 0) summary.mean_reward = sum / rewarded;
  return summary;
}

}  // namespace espalier::tree
