// A tree while its episodes run: nodes and journal events are added as things happen. Internal to
// rollout/.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "rollout/shared.h"

namespace espalier::rollout {

/// A node of a growing tree; index -1: the prompt.
struct NodeRef {
  int index = -1;
  tree::NodeId id;
  std::string path;
};

struct BranchPoint;
struct Step;
class KeptNodes;

/// Thread contract: any thread. Errors of the journal go to Shared::fail, never to the caller.
class TreeState : public std::enable_shared_from_this<TreeState> {
 public:
  TreeState(Shared& shared, TreeRequest request, TreeQueue& out);
  ~TreeState();

  const TreeRequest& request() const { return request_; }
  const policy::ContextPtr& prompt_context() const { return prompt_context_; }
  const std::string& family() const { return tree_.family; }
  NodeRef prompt() const { return {-1, tree_.id, ""}; }
  /// Key of what a path of this tree draws: (run seed, purpose:task#index, path).
  common::RngKey key(std::string_view path) const;
  /// Sorts deterministic batches: a hash, so that no root or tree is always served first.
  uint64_t order(std::string_view path) const;

  /// An episode of the tree starts; the first writes the tree's header.
  void started();
  /// An action was sampled: sets the node's id and parent. Before its command is run.
  NodeRef add_turn(const NodeRef& parent, std::string path, tree::Node node);
  /// An episode begins: a root's, or a branch's after its fork. path: of its first turn.
  void episode_started(const std::string& path);
  /// The node's command is given to the environment next.
  void sending(const NodeRef& node);
  void observed(const NodeRef& node, const envs::Observation& observation, std::string shown);
  void snapshot(const NodeRef& node, const std::string& snapshot);
  /// detail: JSON. made: whether children exist (false: why not stands in the detail).
  void forked(const NodeRef& node, bool made, std::string detail);
  void failed(const std::string& path, std::string detail);
  /// What failed is done again next.
  void retrying(const std::string& path, std::string detail);
  /// How an episode of the root is judged.
  envs::VerifierSpec verifier(int root) const;
  /// The verifier is started next, in the environment as it is after the node.
  void verifying(const NodeRef& node);
  void verified(const NodeRef& node, const envs::Verdict& verdict);
  void ended(const NodeRef& node, tree::Outcome outcome, std::optional<double> reward,
             std::string failure);

  /// Counts the episodes that are not over: the roots at first.
  void open_episodes(int count);
  /// The last one seals the tree (canonical, journalled, pushed), unless the fork rule goes back to
  /// it.
  void close_episode();

  /// Whether the rule decides once an action is sampled.
  bool may_branch_after_sampling() const;
  /// Whether nodes must be remembered, for a rule that goes back.
  bool may_go_back() const;
  /// Where an episode stands behind a node: what a branch made later starts from.
  void remember(const NodeRef& node, const BranchPoint& stand, std::shared_ptr<const Step> history);

  /// Environments behind nodes that may be gone back to.
  KeptNodes& kept() { return *kept_; }

  int forks = 0;  // made or being made; guarded by Shared::rule_mutex

 private:
  void append_recorded(const tree::Node& node);
  void journal(tree::EventType type, const NodeRef& node, tree::Node payload, std::string text);
  void append(tree::Event event);
  void seal();
  std::vector<BranchPoint> look_back();
  std::vector<BranchPoint> branch_again(const tree::BackFork& fork, const tree::Node& parent);
  void fork_kept(BranchPoint& branch);

  Shared& shared_;
  const TreeRequest request_;
  const std::string stream_;  // "purpose:task#index"
  TreeQueue& out_;
  policy::ContextPtr prompt_context_;
  std::mutex mutex_;
  tree::Tree tree_;
  std::map<std::string, std::unique_ptr<BranchPoint>> remembered_;  // by path
  std::unique_ptr<KeptNodes> kept_;
  int episodes_ = 0;
  std::atomic<bool> started_{false};
  bool cut_short_ = false;  // an episode was cancelled by Farm::cancel
};

}  // namespace espalier::rollout
