#include "tree/run_trees.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "common/error.h"
#include "tree/journal.h"
#include "tree/store.h"
#include "tree/tree_index.h"

namespace espalier::tree {
namespace {

constexpr size_t kMinIdDigits = 4;
constexpr size_t kMaxIdDigits = 64;
constexpr size_t kMaxCandidates = 5;  // named in the message when an id is ambiguous

constexpr std::string_view kTreePrefix = "task-";
constexpr size_t kMaxIndexDigits = 19;

/// "3" and "task-3" → 3.
std::optional<uint64_t> tree_number(std::string_view name) {
  if (name.starts_with(kTreePrefix)) name.remove_prefix(kTreePrefix.size());
  uint64_t index = 0;
  auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || stop != name.data() + name.size()) return std::nullopt;
  return index;
}

/// "3/r2/t5" → 3 and "r2/t5".
std::optional<std::pair<uint64_t, std::string>> split_tree_path(const std::string& name) {
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const auto index = tree_number(std::string_view(name).substr(0, slash));
  if (!index) return std::nullopt;
  return std::pair(*index, name.substr(slash + 1));
}

std::string lower_case(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char digit) { return static_cast<char>(std::tolower(digit)); });
  return name;
}

bool is_id_prefix(const std::string& name) {
  return name.size() >= kMinIdDigits && name.size() <= kMaxIdDigits &&
         name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::optional<RunTree> tree_at(const std::filesystem::path& run, const TreePlace& place) {
  const auto shard = shard_path(run, place.step);
  std::error_code error;
  if (!std::filesystem::exists(shard, error)) return std::nullopt;
  try {
    return RunTree{read_tree(shard, place.row), TreeState::stored};
  } catch (const common::StoreError&) {
    return std::nullopt;  // the index is stale, or the shard damaged: the search will tell
  }
}

/// What the index says, if it is so.
template <class Key, class Matches>
std::optional<RunTree> find_indexed(const std::filesystem::path& run, const Key& key,
                                    const Matches& matches) {
  const auto place = TreeIndex(run / "trees").find(key);
  if (!place) return std::nullopt;
  std::optional<RunTree> found = tree_at(run, *place);
  return found && matches(found->tree) ? std::move(found) : std::nullopt;
}

/// A run without an index (a copy of its shards, one from an older version) gets one.
void make_index(const std::filesystem::path& run) {
  TreeIndex index(run / "trees");
  if (index.exists()) return;
  for (const auto& shard : list_shards(run)) {
    const ShardIds ids = read_ids(shard);
    index.add(*shard_step(shard), ids.indices, ids.trees);
  }
}

/// Trees that are in no shard. `visit` returns false to stop.
void visit_journal(const std::filesystem::path& run, std::set<uint64_t> stored,
                   const std::function<bool(RunTree&&)>& visit) {
  std::error_code error;
  if (!std::filesystem::is_directory(run / "journal", error)) return;
  RecoverOptions options;
  options.skip = std::move(stored);
  std::string damage;
  for (RecoveredTree& recovered : recover_trees(run / "journal", options, &damage)) {
    const TreeState state = recovered.sealed ? TreeState::sealed : TreeState::unfinished;
    if (!visit({std::move(recovered.tree), state})) return;
  }
  if (!damage.empty())
    throw common::StoreError("read journal " + damage + "; what was written behind it is lost");
}

/// By what the shards' id columns and then the journal say. `matches` is given index and id.
using Matches = std::function<bool(uint64_t index, const NodeId& id)>;
std::vector<RunTree> search_trees(const std::filesystem::path& run, const Matches& matches,
                                  size_t limit) {
  std::vector<RunTree> found;
  std::set<uint64_t> stored;
  for (const auto& shard : list_shards(run)) {
    const ShardIds ids = read_ids(shard);
    stored.insert(ids.indices.begin(), ids.indices.end());
    for (size_t row = 0; row < ids.indices.size() && found.size() < limit; ++row)
      if (matches(ids.indices[row], ids.trees[row]))
        found.push_back({read_tree(shard, row), TreeState::stored});
    if (found.size() >= limit) return found;
  }
  visit_journal(run, std::move(stored), [&](RunTree&& tree) {
    if (matches(tree.tree.index, tree.tree.id)) found.push_back(std::move(tree));
    return found.size() < limit;
  });
  return found;
}

/// ": its stored trees are 0 to 63"; empty: none is stored.
std::string known_trees(const std::filesystem::path& run) {
  std::set<uint64_t> indices;
  for (const auto& shard : list_shards(run)) {
    const ShardIds ids = read_ids(shard);
    indices.insert(ids.indices.begin(), ids.indices.end());
  }
  if (indices.empty()) return "";
  return ": its stored trees are " + std::to_string(*indices.begin()) + " to " +
         std::to_string(*indices.rbegin());
}

RunTree only_tree(std::vector<RunTree> found, const std::filesystem::path& run,
                  const std::string& name) {
  if (found.size() == 1) return std::move(found.front());
  if (found.empty())
    throw common::ConfigError("tree " + name + ": run '" + run.string() + "' has no such tree" +
                              known_trees(run) + "; `espalier trace log` lists those it has");
  throw common::ConfigError("tree " + name + ": the id is ambiguous: trees " +
                            std::to_string(found[0].tree.index) + " and " +
                            std::to_string(found[1].tree.index) + " begin with it");
}

/// The tree's paths that have the longest beginning in common with `path`, as "3/r2/t5/b0, …".
std::string nearest_paths(const Tree& tree, const std::string& path) {
  size_t longest = 0;
  std::vector<std::string> nearest;
  for (const Node& node : tree.nodes) {
    const auto apart = std::mismatch(path.begin(), path.end(), node.path.begin(), node.path.end());
    const auto common = static_cast<size_t>(apart.first - path.begin());
    if (common > longest) nearest.clear();
    longest = std::max(longest, common);
    if (common == longest) nearest.push_back(std::to_string(tree.index) + "/" + node.path);
  }
  std::string names;
  for (size_t i = 0; i < std::min(nearest.size(), kMaxCandidates); ++i)
    names += (i ? ", " : "") + nearest[i];
  return names + (nearest.size() > kMaxCandidates ? ", …" : "");
}

FoundNode find_by_path(const std::filesystem::path& run, uint64_t index, const std::string& path) {
  RunTree found = find_tree(run, index);
  for (size_t i = 0; i < found.tree.nodes.size(); ++i) {
    const std::string& seen = found.tree.nodes[i].path;
    if (seen == path || seen == path + "/t0") return {std::move(found), static_cast<int>(i)};
  }
  const std::string nearest = found.tree.nodes.empty()
                                  ? "it has no nodes yet"
                                  : "did you mean " + nearest_paths(found.tree, path) + "?";
  throw common::ConfigError("node '" + std::to_string(index) + "/" + path + "': tree " +
                            std::to_string(index) + " has no such node; " + nearest);
}

/// Candidates for an ambiguous id.
class Candidates {
 public:
  explicit Candidates(std::string prefix) : prefix_(std::move(prefix)) {}

  /// False: enough have been seen.
  bool offer(const NodeId& id, const std::function<FoundNode()>& read) {
    if (!id.full_hex().starts_with(prefix_)) return true;
    if (seen_.size() > kMaxCandidates) return false;
    FoundNode node = read();
    seen_.push_back(id.hex() + " (" + std::to_string(node.found.tree.index) + "/" +
                    node.found.tree.nodes[node.node].path + ")");
    if (!first_) first_ = std::move(node);
    return true;
  }

  FoundNode only() && {
    if (!first_)
      throw common::ConfigError("node '" + prefix_ + "': no node of the run has such an id");
    if (seen_.size() == 1) return std::move(*first_);
    std::string names;
    for (size_t i = 0; i < std::min(seen_.size(), kMaxCandidates); ++i)
      names += (i ? ", " : "") + seen_[i];
    if (seen_.size() > kMaxCandidates) names += " and others";
    throw common::ConfigError("node '" + prefix_ + "': the id is ambiguous: " + names);
  }

 private:
  std::string prefix_;
  std::vector<std::string> seen_;
  std::optional<FoundNode> first_;
};

/// Reads ids alone, and trees only where one fits.
FoundNode find_by_id(const std::filesystem::path& run, const std::string& prefix) {
  Candidates candidates(prefix);
  std::set<uint64_t> stored;
  for (const auto& shard : list_shards(run)) {
    const ShardIds ids = read_ids(shard);
    stored.insert(ids.indices.begin(), ids.indices.end());
    for (size_t row = 0; row < ids.trees.size(); ++row)
      for (uint64_t node = ids.first_node[row]; node < ids.first_node[row + 1]; ++node)
        candidates.offer(ids.nodes[node], [&] {
          return FoundNode{{read_tree(shard, row), TreeState::stored},
                           static_cast<int>(node - ids.first_node[row])};
        });
  }
  visit_journal(run, std::move(stored), [&](RunTree&& tree) {
    for (size_t i = 0; i < tree.tree.nodes.size(); ++i)
      candidates.offer(tree.tree.nodes[i].id, [&] { return FoundNode{tree, static_cast<int>(i)}; });
    return true;
  });
  return std::move(candidates).only();
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

void check_run(const std::filesystem::path& run) {
  std::error_code error;
  if (!std::filesystem::is_directory(run, error))
    throw common::ConfigError("run '" + run.string() + "': no such directory");
  if (!std::filesystem::is_directory(run / "trees", error) &&
      !std::filesystem::is_directory(run / "journal", error))
    throw common::ConfigError("run '" + run.string() +
                              "': not a run directory (it has neither trees/ nor journal/)");
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
  visit_journal(run, std::move(stored), visit);
}

RunTree find_tree(const std::filesystem::path& run, uint64_t index) {
  check_run(run);
  make_index(run);
  if (auto found = find_indexed(run, index, [&](const Tree& tree) { return tree.index == index; }))
    return std::move(*found);
  const Matches matches = [&](uint64_t seen, const NodeId&) { return seen == index; };
  return only_tree(search_trees(run, matches, 1), run, std::to_string(index));
}

RunTree find_tree(const std::filesystem::path& run, const NodeId& id) {
  check_run(run);
  make_index(run);
  if (auto found = find_indexed(run, id, [&](const Tree& tree) { return tree.id == id; }))
    return std::move(*found);
  const Matches matches = [&](uint64_t, const NodeId& seen) { return seen == id; };
  return only_tree(search_trees(run, matches, 1), run, id.hex());
}

RunTree find_tree(const std::filesystem::path& run, const std::string& name) {
  const auto number = tree_number(name);
  if (number && name.size() <= kMaxIndexDigits) return find_tree(run, *number);
  const std::string prefix = lower_case(name);
  if (!is_id_prefix(prefix))
    throw common::ConfigError("tree '" + name +
                              "': allowed are an index (3, task-3) and the first " +
                              std::to_string(kMinIdDigits) + " to " + std::to_string(kMaxIdDigits) +
                              " hex digits of an id");
  check_run(run);
  const Matches matches = [&](uint64_t, const NodeId& id) {
    return id.full_hex().starts_with(prefix);
  };
  return only_tree(search_trees(run, matches, 2), run, prefix);
}

FoundNode find_node(const std::filesystem::path& run, const std::string& name) {
  check_run(run);
  if (auto place = split_tree_path(name)) return find_by_path(run, place->first, place->second);
  const std::string prefix = lower_case(name);
  if (!is_id_prefix(prefix))
    throw common::ConfigError("node '" + name + "': allowed are the first " +
                              std::to_string(kMinIdDigits) + " to " + std::to_string(kMaxIdDigits) +
                              " hex digits of an id, or TREE/PATH as in 3/r2/t5/b1");
  return find_by_id(run, prefix);
}

FoundNode find_place(const std::filesystem::path& run, const std::string& name) {
  const bool whole = name.ends_with('/') || name.starts_with(kTreePrefix);
  const auto index = tree_number(name.ends_with('/') ? name.substr(0, name.size() - 1) : name);
  if (whole && index) return {find_tree(run, *index), -1};
  return find_node(run, name);
}

std::vector<int> path_to(const Tree& tree, int node) {
  std::vector<int> path;
  for (int at = node; at >= 0; at = tree.nodes[at].parent) path.push_back(at);
  std::reverse(path.begin(), path.end());
  return path;
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
