// Random trees for tests, a pure function of a number.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/rng.h"
#include "tree/trace_tree.h"

namespace espalier::tree::testing {

struct RandomTreeOptions {
  int max_roots = 5;
  int max_depth = 5;
  double fork_probability = 0.4;
  int max_branches = 4;
  double failure_probability = 0.15;  // of a leaf: no reward
  bool binary_rewards = true;
  bool shuffled = false;  // nodes in random order of arrival
};

inline void fill_turn(Node& node, common::Rng& rng) {
  for (int64_t i = rng.range(0, 4); i > 0; --i)
    node.prompt_delta.push_back(static_cast<Token>(rng.range(0, 300)));
  for (int64_t i = rng.range(1, 6); i > 0; --i) {
    node.action.push_back(static_cast<Token>(rng.range(0, 300)));
    node.log_probs.push_back(static_cast<float>(-rng.uniform()));
    node.entropies.push_back(static_cast<float>(rng.uniform()));
    node.loss_mask.push_back(static_cast<uint8_t>(rng.range(0, 1)));
  }
  node.first_entropy = node.entropies.front();
  node.policy_version = 3;
  node.sampling_key = rng.next();
  node.command = "cat file" + std::to_string(rng.range(0, 9));
  node.observation = "line\n\xff raw " + std::to_string(rng.range(0, 9));
  node.exit_code = static_cast<int>(rng.range(0, 2));
  node.timed_out = rng.range(0, 9) == 0;
  node.command_state = CommandState::answered;
}

inline void end_leaf(Node& node, common::Rng& rng, const RandomTreeOptions& options) {
  if (rng.uniform() < options.failure_probability) {
    node.outcome = Outcome::infra_failed;
    node.failure = "sandbox lost";
    return;
  }
  node.outcome = Outcome::rewarded;
  node.reward = options.binary_rewards ? static_cast<double>(rng.range(0, 1)) : rng.normal();
}

/// Adds one child and everything below it, depth first; siblings by branch number.
inline void grow(Tree& tree, int parent, int branch, bool forked, common::Rng& rng,
                 const RandomTreeOptions& options) {
  Node node;
  node.parent = parent;
  node.branch = branch;
  node.turn = parent < 0 ? 0 : tree.nodes[parent].turn + 1;
  node.path = parent < 0 ? root_path(branch)
                         : child_path(tree.nodes[parent].path, node.turn, branch, forked);
  fill_turn(node, rng);
  if (forked) node.fork_origin = ForkOrigin::value;
  node.id = node_id(parent < 0 ? tree.id : tree.nodes[parent].id, node);
  const int index = static_cast<int>(tree.nodes.size());
  tree.nodes.push_back(node);
  if (node.turn + 1 >= options.max_depth || rng.uniform() < 0.2)
    return end_leaf(tree.nodes[index], rng, options);
  const bool fork = rng.uniform() < options.fork_probability;
  const int count = fork ? static_cast<int>(rng.range(2, options.max_branches)) : 1;
  if (fork) tree.nodes[index].fork_rule = "uniform";
  for (int child = 0; child < count; ++child) grow(tree, index, child, fork, rng, options);
}

inline void shuffle_nodes(Tree& tree, common::Rng& rng) {
  std::vector<int> order(tree.nodes.size()), position(tree.nodes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  for (size_t i = order.size(); i-- > 1;)
    std::swap(order[i], order[rng.range(0, static_cast<int64_t>(i))]);
  for (size_t i = 0; i < order.size(); ++i) position[order[i]] = static_cast<int>(i);
  std::vector<Node> nodes;
  for (int from : order) nodes.push_back(tree.nodes[from]);
  for (Node& node : nodes)
    if (node.parent >= 0) node.parent = position[node.parent];
  tree.nodes = std::move(nodes);
}

inline Tree random_tree(uint64_t number, const RandomTreeOptions& options = {}) {
  common::Rng rng(common::derive_key(number, "random tree", "test"));
  Tree tree;
  tree.task = "nursery:find/" + std::to_string(number) + "/d2";
  tree.family = "find";
  tree.index = number;
  tree.step = number / 4;
  tree.run_seed = 7;
  tree.prompt = "find thorn";
  tree.prompt_tokens = {1, 2, static_cast<Token>(rng.range(0, 300))};
  tree.id = prompt_id(tree);
  const int roots = static_cast<int>(rng.range(1, options.max_roots));
  for (int root = 0; root < roots; ++root) grow(tree, -1, root, false, rng, options);
  if (options.shuffled) shuffle_nodes(tree, rng);
  return tree;
}

/// Equal in every field.
inline bool same_node(const Node& a, const Node& b) {
  return a.id == b.id && a.parent == b.parent && a.branch == b.branch && a.turn == b.turn &&
         a.path == b.path && a.prompt_delta == b.prompt_delta && a.action == b.action &&
         a.log_probs == b.log_probs && a.entropies == b.entropies && a.loss_mask == b.loss_mask &&
         a.first_entropy == b.first_entropy && a.policy_version == b.policy_version &&
         a.sampling_key == b.sampling_key && a.command == b.command &&
         a.observation == b.observation && a.exit_code == b.exit_code &&
         a.timed_out == b.timed_out && a.injected == b.injected &&
         a.command_state == b.command_state && a.fork_origin == b.fork_origin &&
         a.fork_rule == b.fork_rule && a.snapshot == b.snapshot && a.outcome == b.outcome &&
         a.reward == b.reward && a.failure == b.failure && a.value == b.value &&
         a.advantage == b.advantage && a.weight == b.weight && a.s_plus == b.s_plus &&
         a.s_minus == b.s_minus;
}

inline bool same_tree(const Tree& a, const Tree& b) {
  return a.task == b.task && a.family == b.family && a.index == b.index && a.step == b.step &&
         a.run_seed == b.run_seed && a.id == b.id && a.prompt == b.prompt &&
         a.prompt_tokens == b.prompt_tokens &&
         std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(), same_node);
}

}  // namespace espalier::tree::testing
