#include "learner/packing.h"

#include <algorithm>

#include "common/error.h"

namespace espalier::learner {
namespace {

using tree::Node;
using tree::Tree;

void check_node(const Tree& tree, const Node& node, bool with_estimates) {
  const size_t tokens = node.action.size();
  if (node.loss_mask.size() != tokens || (with_estimates && node.log_probs.size() != tokens)) {
    throw common::Error(
        "pack tree " + tree.task + " node " + node.path + ": " + std::to_string(tokens) +
        " action tokens, " + std::to_string(node.loss_mask.size()) + " mask values, " +
        std::to_string(node.log_probs.size()) + " log-probs; allowed: as many of each as tokens");
  }
}

/// Packs one tree, or one of its paths. Offsets are within the item.
class Packer {
 public:
  Packer(const Tree& tree, int index, bool with_estimates)
      : tree_(tree), index_(index), with_estimates_(with_estimates) {
    if (tree.prompt_tokens.empty())
      throw common::Error("pack tree " + tree.task +
                          ": the prompt has no tokens; allowed: at least one");
  }

  Packed whole_tree() {
    children_ = tree_.children();
    open_segment(0);
    append(tree_.prompt_tokens);
    grow(tree_.roots(), 0);
    close_segment(0);
    return std::move(packed_);
  }

  /// `path`: nodes from the root down; leaves_below: per node of the tree.
  Packed path(const std::vector<int>& path, const std::vector<int>& leaves_below) {
    open_segment(0);
    append(tree_.prompt_tokens);
    for (int node : path) {
      const Node& n = node_at(node);
      append(n.prompt_delta);
      append_action(n, 1.0 / leaves_below[static_cast<size_t>(node)]);
    }
    close_segment(0);
    return std::move(packed_);
  }

 private:
  const Node& node_at(int node) const { return tree_.nodes[static_cast<size_t>(node)]; }
  const std::vector<int>& children(int node) const { return children_[static_cast<size_t>(node)]; }
  int64_t size() const { return static_cast<int64_t>(packed_.tokens.size()); }

  void open_segment(int level) { packed_.segments.push_back({size(), size(), size(), level}); }
  /// A segment's tokens end where its first child's begin.
  void close_segment(size_t segment) {
    const bool has_children = segment + 1 < packed_.segments.size();
    packed_.segments[segment].end = has_children ? packed_.segments[segment + 1].begin : size();
    packed_.segments[segment].subtree_end = size();
  }

  /// Appends tokens [from, to) behind `last_`.
  void append(const std::vector<tree::Token>& tokens, size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) append(tokens[i]);
  }
  void append(const std::vector<tree::Token>& tokens) { append(tokens, 0, tokens.size()); }
  void append(tree::Token token) {
    packed_.tokens.push_back(token);
    packed_.positions.push_back(last_ < 0 ? 0 : packed_.positions[static_cast<size_t>(last_)] + 1);
    last_ = size() - 1;
  }

  void append_action(const Node& node, double share) {
    check_node(tree_, node, with_estimates_);
    for (size_t i = 0; i < node.action.size(); ++i) {
      const int64_t state = last_;
      append(node.action[i]);
      if (!node.loss_mask[i]) continue;
      Edges& edges = packed_.edges;
      edges.state.push_back(state);
      edges.target.push_back(last_);
      edges.rollout_log_prob.push_back(with_estimates_ ? node.log_probs[i] : 0.0F);
      edges.s_plus.push_back(node.s_plus * share);
      edges.s_minus.push_back(node.s_minus * share);
      edges.share.push_back(share);
      edges.weight.push_back(with_estimates_ ? node.weight * share : share);
      edges.tree.push_back(index_);
    }
  }

  /// Length of what the siblings' prompt deltas have in common at the front.
  size_t common_prefix(const std::vector<int>& siblings) const {
    const std::vector<tree::Token>& first = node_at(siblings.front()).prompt_delta;
    size_t length = first.size();
    for (int sibling : siblings) {
      const std::vector<tree::Token>& delta = node_at(sibling).prompt_delta;
      const auto stop = std::mismatch(first.begin(), first.begin() + static_cast<int64_t>(length),
                                      delta.begin(), delta.end());
      length = static_cast<size_t>(stop.first - first.begin());
    }
    return length;
  }

  /// Lays out what grows from the open segment: an only child goes on in it, siblings open
  /// segments.
  void grow(std::vector<int> siblings, int level) {
    while (siblings.size() == 1) {
      const Node& node = node_at(siblings.front());
      append(node.prompt_delta);
      append_action(node, 1.0);
      siblings = children(siblings.front());
    }
    if (siblings.empty()) return;
    const size_t shared = common_prefix(siblings);
    append(node_at(siblings.front()).prompt_delta, 0, shared);
    const int64_t fork_state = last_;
    for (int sibling : siblings) {
      last_ = fork_state;
      const size_t segment = packed_.segments.size();
      open_segment(level + 1);
      const Node& node = node_at(sibling);
      append(node.prompt_delta, shared, node.prompt_delta.size());
      append_action(node, 1.0);
      grow(children(sibling), level + 1);
      close_segment(segment);
    }
  }

  const Tree& tree_;
  int index_;
  bool with_estimates_;
  std::vector<std::vector<int>> children_;
  int64_t last_ = -1;  // the path's last token so far
  Packed packed_;
};

std::vector<int> leaves_below(const Tree& tree) {
  std::vector<int> count(tree.nodes.size(), 0);
  for (int leaf : tree.leaves()) {
    for (int node = leaf; node >= 0; node = tree.nodes[static_cast<size_t>(node)].parent)
      ++count[static_cast<size_t>(node)];
  }
  return count;
}

std::vector<int> path_to(const Tree& tree, int leaf) {
  std::vector<int> path;
  for (int node = leaf; node >= 0; node = tree.nodes[static_cast<size_t>(node)].parent)
    path.push_back(node);
  std::reverse(path.begin(), path.end());
  return path;
}

template <class T>
void extend(std::vector<T>& into, const std::vector<T>& from, T offset = T{}) {
  for (const T& value : from) into.push_back(static_cast<T>(value + offset));
}

void append_item(Packed& into, const Packed& item) {
  const int64_t offset = static_cast<int64_t>(into.tokens.size());
  extend(into.tokens, item.tokens);
  extend(into.positions, item.positions);
  for (Segment segment : item.segments) {
    segment.begin += offset;
    segment.end += offset;
    segment.subtree_end += offset;
    into.segments.push_back(segment);
  }
  extend(into.edges.state, item.edges.state, offset);
  extend(into.edges.target, item.edges.target, offset);
  extend(into.edges.rollout_log_prob, item.edges.rollout_log_prob);
  extend(into.edges.s_plus, item.edges.s_plus);
  extend(into.edges.s_minus, item.edges.s_minus);
  extend(into.edges.share, item.edges.share);
  extend(into.edges.weight, item.edges.weight);
  extend(into.edges.tree, item.edges.tree);
}

}  // namespace

std::vector<Packed> pack(const std::vector<const Tree*>& trees, const PackOptions& options) {
  std::vector<Packed> batches;
  auto add = [&](const Packed& item) {
    const size_t budget = static_cast<size_t>(options.max_tokens);
    if (batches.empty() || batches.back().tokens.size() + item.tokens.size() > budget)
      batches.emplace_back();
    append_item(batches.back(), item);
  };
  for (size_t i = 0; i < trees.size(); ++i) {
    const Tree& tree = *trees[i];
    const int index = static_cast<int>(i);
    if (options.packing == Packing::packed) {
      add(Packer(tree, index, options.with_estimates).whole_tree());
      continue;
    }
    const std::vector<int> below = leaves_below(tree);
    for (int leaf : tree.leaves())
      add(Packer(tree, index, options.with_estimates).path(path_to(tree, leaf), below));
  }
  return batches;
}

uint64_t linear_tokens(const Tree& tree) {
  uint64_t tokens = 0;
  for (int leaf : tree.leaves()) {
    tokens += tree.prompt_tokens.size();
    for (int node : path_to(tree, leaf)) {
      const Node& n = tree.nodes[static_cast<size_t>(node)];
      tokens += n.prompt_delta.size() + n.action.size();
    }
  }
  return tokens;
}

std::vector<std::vector<double>> aggregation_factors(const std::string& loss_agg_mode,
                                                     const std::vector<Packed>& batches,
                                                     size_t trees) {
  std::vector<double> tree_weight(trees, 0.0);
  double weight = 0;
  for (const Packed& batch : batches) {
    for (size_t e = 0; e < batch.edges.size(); ++e) {
      tree_weight[static_cast<size_t>(batch.edges.tree[e])] += batch.edges.weight[e];
      weight += batch.edges.weight[e];
    }
  }
  // Where no edge weighs anything, S⁺ and S⁻ are zero as well.
  auto inverse = [](double sum) { return sum > 0 ? 1.0 / sum : 0.0; };
  auto factor = [&](int tree) {
    if (loss_agg_mode == "token-sum") return 1.0;
    if (loss_agg_mode == "token-mean") return inverse(weight);
    if (loss_agg_mode == "seq-mean-token-sum") return 1.0 / static_cast<double>(trees);
    if (loss_agg_mode == "seq-mean-token-mean")
      return inverse(static_cast<double>(trees) * tree_weight[static_cast<size_t>(tree)]);
    throw common::ConfigError("loss_agg_mode: got '" + loss_agg_mode +
                              "'; allowed: token-mean, token-sum, seq-mean-token-sum, "
                              "seq-mean-token-mean");
  };
  std::vector<std::vector<double>> factors;
  for (const Packed& batch : batches) {
    std::vector<double>& of_batch = factors.emplace_back();
    for (int tree : batch.edges.tree) of_batch.push_back(factor(tree));
  }
  return factors;
}

}  // namespace espalier::learner
