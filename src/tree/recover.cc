#include <map>

#include "common/error.h"
#include "tree/journal.h"

namespace espalier::tree {
namespace {

/// One tree while its events come in.
class Builder {
 public:
  explicit Builder(Tree header) { result_.tree = std::move(header); }

  void apply(const Event& event) {
    if (event.type == EventType::tree_sealed) result_.sealed = true;
    if (event.type == EventType::turn) return add(event);
    if (event.type == EventType::advantage) return estimate(event);
    const auto found = by_id_.find(event.node);
    if (found == by_id_.end()) return;
    Node& node = result_.tree.nodes[found->second];
    switch (event.type) {
      case EventType::command:
        node.command_state = CommandState::sent;
        break;
      case EventType::observation:
        observe(node, event.payload);
        break;
      case EventType::fork:
        node.fork_rule = event.payload.fork_rule;
        break;
      case EventType::snapshot:
        node.snapshot = event.payload.snapshot;
        break;
      case EventType::verdict:
        node.reward = event.payload.reward;
        node.failure = event.payload.failure;
        if (event.payload.outcome != Outcome::none) node.outcome = event.payload.outcome;
        break;
      case EventType::outcome:
        end(node, event.payload);
        break;
      case EventType::failure:
        if (event.payload.outcome != Outcome::none) {
          end(node, event.payload);
        } else {
          given_up_[found->second] = true;
        }
        break;
      default:
        break;
    }
  }

  RecoveredTree finish() && {
    prune();
    result_.tree.canonicalise();
    return std::move(result_);
  }

 private:
  void add(const Event& event) {
    const int parent = parent_of(event);
    if (parent == kLost) return;
    const auto [place, inserted] =
        by_id_.emplace(event.node, static_cast<int>(result_.tree.nodes.size()));
    if (inserted) {
      result_.tree.nodes.emplace_back();
      given_up_.push_back(false);
    }
    // The same action done again after a failure: the node starts anew.
    Node& node = result_.tree.nodes[place->second];
    node = event.payload;
    node.parent = parent;
    given_up_[place->second] = false;
    by_path_[event.path] = place->second;
  }

  int parent_of(const Event& event) const {
    if (!event.parent.is_zero()) {
      if (event.parent == result_.tree.id) return -1;
      const auto found = by_id_.find(event.parent);
      return found == by_id_.end() ? kLost : found->second;
    }
    const std::string path = parent_path(event.path);
    if (path.empty()) return event.payload.turn == 0 ? -1 : kLost;
    const auto found = by_path_.find(path);
    return found == by_path_.end() ? kLost : found->second;
  }

  void estimate(const Event& event) {
    for (const NodeEstimate& numbers : event.estimates) {
      const auto found = by_id_.find(numbers.node);
      if (found == by_id_.end()) continue;
      Node& node = result_.tree.nodes[found->second];
      node.value = numbers.value;
      node.advantage = numbers.advantage;
      node.weight = numbers.weight;
      node.s_plus = numbers.s_plus;
      node.s_minus = numbers.s_minus;
    }
  }

  static void observe(Node& node, const Node& payload) {
    node.command_state = CommandState::answered;
    node.observation = payload.observation;
    node.exit_code = payload.exit_code;
    node.timed_out = payload.timed_out;
    if (!payload.snapshot.empty()) node.snapshot = payload.snapshot;
  }

  static void end(Node& node, const Node& payload) {
    node.outcome = payload.outcome;
    node.reward = payload.reward;
    node.failure = payload.failure;
  }

  /// Drops what was given up, with everything below it. Parents stand before their children here.
  void prune() {
    std::vector<Node> kept;
    std::vector<int> place(result_.tree.nodes.size(), kLost);
    for (size_t i = 0; i < place.size(); ++i) {
      Node& node = result_.tree.nodes[i];
      if (given_up_[i] || (node.parent >= 0 && place[node.parent] == kLost)) continue;
      if (node.parent >= 0) node.parent = place[node.parent];
      place[i] = static_cast<int>(kept.size());
      kept.push_back(std::move(node));
    }
    result_.tree.nodes = std::move(kept);
  }

  static constexpr int kLost = -2;
  RecoveredTree result_;
  std::vector<bool> given_up_;  // per node
  std::map<NodeId, int> by_id_;
  std::map<std::string, int> by_path_;
};

}  // namespace

std::vector<RecoveredTree> recover_trees(const std::filesystem::path& journal_directory,
                                         const RecoverOptions& options, std::string* damage) {
  JournalReader reader(journal_directory, options.from);
  std::map<uint64_t, Builder> builders;
  while (std::optional<Event> event = reader.next()) {
    if (options.skip.contains(event->tree_index)) continue;
    if (event->type == EventType::tree_started)
      builders.insert_or_assign(event->tree_index, Builder(event->header));
    else if (auto found = builders.find(event->tree_index); found != builders.end())
      found->second.apply(*event);
  }
  if (damage) *damage = reader.stopped() ? reader.damage() : "";
  std::vector<RecoveredTree> trees;
  for (auto& [index, builder] : builders) trees.push_back(std::move(builder).finish());
  return trees;
}

}  // namespace espalier::tree
