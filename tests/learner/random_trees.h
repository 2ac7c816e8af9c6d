// Random trees and small models for the learner's tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/rng.h"
#include "learner/packing.h"
#include "policy/weights.h"
#include "tree/advantage.h"
#include "tree/trace_tree.h"

namespace espalier::learner::test {

struct RandomTreeOptions {
  int depth = 3;          // turns of the longest path
  int max_branching = 3;  // children of a node
  int vocab_size = 23;
  int max_tokens = 5;             // of a prompt, an action or an observation
  size_t max_nodes = 40;          // where reached, nodes stay leaves
  bool same_observation = false;  // all siblings have the same prompt delta, as forks have
};

class TreeMaker {
 public:
  TreeMaker(uint64_t seed, const RandomTreeOptions& options)
      : options_(options), rng_(common::derive_key(seed, "test", "trees")) {}

  tree::Tree make() {
    tree::Tree tree;
    tree.task = "test";
    tree.prompt_tokens = tokens(1);
    const int64_t roots = rng_.range(1, options_.max_branching);
    for (int root = 0; root < roots; ++root) grow(tree, -1, root, 0, {});
    return tree;
  }

  std::vector<tree::Tree> make(int count) {
    std::vector<tree::Tree> trees;
    for (int i = 0; i < count; ++i) trees.push_back(make());
    return trees;
  }

 private:
  std::vector<tree::Token> tokens(int64_t least) {
    std::vector<tree::Token> tokens(static_cast<size_t>(rng_.range(least, options_.max_tokens)));
    for (tree::Token& token : tokens)
      token = static_cast<tree::Token>(rng_.range(0, options_.vocab_size - 1));
    return tokens;
  }

  void grow(tree::Tree& tree, int parent, int branch, int turn, std::vector<tree::Token> delta) {
    tree::Node node;
    node.parent = parent;
    node.branch = branch;
    node.turn = turn;
    node.path = std::to_string(tree.nodes.size());
    node.prompt_delta = std::move(delta);
    node.action = tokens(1);
    for (size_t i = 0; i < node.action.size(); ++i) {
      node.loss_mask.push_back(rng_.uniform() < 0.85);
      node.log_probs.push_back(static_cast<float>(-3.0 + rng_.normal()));
    }
    node.weight = rng_.uniform();
    if (rng_.uniform() < 0.8) node.s_plus = rng_.uniform();
    if (rng_.uniform() < 0.8) node.s_minus = -rng_.uniform();
    const int index = static_cast<int>(tree.nodes.size());
    tree.nodes.push_back(std::move(node));
    if (turn + 1 >= options_.depth || tree.nodes.size() >= options_.max_nodes ||
        (turn > 0 && rng_.uniform() < 0.15)) {
      return;
    }
    const std::vector<tree::Token> observation = tokens(0);
    const int64_t children = rng_.range(1, options_.max_branching);
    for (int child = 0; child < children; ++child) {
      std::vector<tree::Token> of_child = observation;
      if (!options_.same_observation && rng_.uniform() < 0.3) {
        const std::vector<tree::Token> more = tokens(0);
        of_child.insert(of_child.end(), more.begin(), more.end());
      }
      grow(tree, index, child, turn + 1, of_child);
    }
  }

  RandomTreeOptions options_;
  common::Rng rng_;
};

/// Rewards at random (some leaves failed) and estimates from them.
inline void estimate(std::vector<tree::Tree>& trees, const std::string& estimator, uint64_t seed) {
  common::Rng rng(common::derive_key(seed, "test", "rewards"));
  for (tree::Tree& tree : trees) {
    for (int leaf : tree.leaves()) {
      tree::Node& node = tree.nodes[static_cast<size_t>(leaf)];
      node.reward.reset();
      if (rng.uniform() < 0.9) node.reward = rng.uniform() < 0.5 ? 0.0 : rng.uniform();
    }
  }
  tree::make_estimator(estimator, {})->estimate(trees);
}

inline std::vector<const tree::Tree*> pointers(const std::vector<tree::Tree>& trees) {
  std::vector<const tree::Tree*> list;
  for (const tree::Tree& tree : trees) list.push_back(&tree);
  return list;
}

inline policy::ModelShape small_shape(int vocab_size = 23) {
  policy::ModelShape shape;
  shape.vocab_size = vocab_size;
  shape.hidden_size = 16;
  shape.num_hidden_layers = 2;
  shape.num_attention_heads = 4;
  shape.num_key_value_heads = 2;
  shape.head_dim = 4;
  shape.intermediate_size = 24;
  return shape;
}

/// Fresh weights; with gradients when `trainable`.
inline std::shared_ptr<policy::Weights> small_model(
    at::ScalarType type, bool trainable, uint64_t seed = 1,
    const policy::ModelShape& shape = small_shape()) {
  auto weights =
      policy::init_weights(shape, common::derive_key(seed, "test", "weights"))->clone(type);
  if (trainable) {
    for (auto& [name, tensor] : weights->tensors) tensor.requires_grad_(true);
  }
  return weights;
}

/// ‖a − b‖ / ‖b‖, in float64.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  const double size = y.norm().item<double>();
  const double difference = (x - y).norm().item<double>();
  return size > 0 ? difference / size : difference;
}

}  // namespace espalier::learner::test
