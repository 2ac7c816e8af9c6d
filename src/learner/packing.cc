#include "learner/packing.h"

#include <algorithm>

#include "common/error.h"
#include "learner/tree_paths.h"

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
  Packer(const Tree& tree, int index, const PackOptions& options)
      : tree_(tree),
        index_(index),
        options_(options),
        paths_(tree, options.with_estimates),
        node_edges_(tree.nodes.size()) {
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
    if (options_.with_paths) {
      for (const LeafPath& path : paths_.leaves()) add_path(path);
    }
    return std::move(packed_);
  }

  /// Each path an item of its own.
  std::vector<Packed> linear() {
    std::vector<Packed> items;
    for (const LeafPath& path : paths_.leaves()) items.push_back(linear(path));
    return items;
  }

 private:
  struct Range {
    int64_t begin = 0, end = 0;
  };

  Packed linear(const LeafPath& path) {
    last_ = -1;
    packed_ = {};
    open_segment(0);
    append(tree_.prompt_tokens);
    for (int node : path.nodes) {
      append(node_at(node).prompt_delta);
      append_action(node, 1.0 / paths_.leaves_below(node));
    }
    close_segment(0);
    if (options_.with_paths) add_path(path);
    return std::move(packed_);
  }

  /// Pairs of the path and the edges on it.
  void add_path(const LeafPath& path) {
    if (!path.valid) return;
    Paths& paths = packed_.paths;
    for (size_t i = 0; i < path.nodes.size(); ++i) {
      const Node& node = node_at(path.nodes[i]);
      const Range range = node_edges_[static_cast<size_t>(path.nodes[i])];
      if (path.credit_index[i] >= node.leaf_credits.size())
        throw common::Error("pack tree " + tree_.task + " node " + node.path +
                            ": the estimator's leaf credits are missing; estimate the trees anew");
      for (int64_t edge = range.begin; edge < range.end; ++edge) {
        paths.edge.push_back(edge);
        paths.path.push_back(paths.count);
        paths.credit.push_back(node.filtered ? 0.0 : node.leaf_credits[path.credit_index[i]]);
        paths.share.push_back(1.0 / (paths_.leaves_below(path.nodes[i]) *
                                     packed_.edges.share[static_cast<size_t>(edge)]));
      }
    }
    ++paths.count;
  }

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

  void append_action(int index, double share) {
    const Node& node = node_at(index);
    const bool with_estimates = options_.with_estimates;
    check_node(tree_, node, with_estimates);
    Range& range = node_edges_[static_cast<size_t>(index)];
    range.begin = static_cast<int64_t>(packed_.edges.size());
    const double s = node.filtered ? 0.0 : share;
    for (size_t i = 0; i < node.action.size(); ++i) {
      const int64_t state = last_;
      append(node.action[i]);
      if (!node.loss_mask[i]) continue;
      Edges& edges = packed_.edges;
      edges.state.push_back(state);
      edges.target.push_back(last_);
      edges.rollout_log_prob.push_back(with_estimates ? node.log_probs[i] : 0.0F);
      edges.s_plus.push_back(node.s_plus * s);
      edges.s_minus.push_back(node.s_minus * s);
      edges.share.push_back(share);
      edges.weight.push_back(with_estimates ? node.weight * s : share);
      edges.inverse_length.push_back(paths_.inverse_length(index));
      edges.tree.push_back(index_);
    }
    range.end = static_cast<int64_t>(packed_.edges.size());
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
      append(node_at(siblings.front()).prompt_delta);
      append_action(siblings.front(), 1.0);
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
      append_action(sibling, 1.0);
      grow(children(sibling), level + 1);
      close_segment(segment);
    }
  }

  const Tree& tree_;
  int index_;
  PackOptions options_;
  TreePaths paths_;
  std::vector<Range> node_edges_;  // of the item at hand
  std::vector<std::vector<int>> children_;
  int64_t last_ = -1;  // the path's last token so far
  Packed packed_;
};

template <class T>
void extend(std::vector<T>& into, const std::vector<T>& from, T offset = T{}) {
  for (const T& value : from) into.push_back(static_cast<T>(value + offset));
}

void append_item(Packed& into, const Packed& item) {
  const int64_t offset = static_cast<int64_t>(into.tokens.size());
  const int64_t edges = static_cast<int64_t>(into.edges.size());
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
  extend(into.edges.inverse_length, item.edges.inverse_length);
  extend(into.edges.tree, item.edges.tree);
  extend(into.paths.edge, item.paths.edge, edges);
  extend(into.paths.path, item.paths.path, into.paths.count);
  extend(into.paths.credit, item.paths.credit);
  extend(into.paths.share, item.paths.share);
  into.paths.count += item.paths.count;
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
    Packer packer(tree, index, options);
    if (options.packing == Packing::packed) {
      add(packer.whole_tree());
    } else {
      for (const Packed& item : packer.linear()) add(item);
    }
  }
  return batches;
}

uint64_t linear_tokens(const Tree& tree) {
  uint64_t tokens = 0;
  for (int leaf : tree.leaves()) {
    tokens += tree.prompt_tokens.size();
    for (int node = leaf; node >= 0; node = tree.nodes[static_cast<size_t>(node)].parent) {
      const Node& n = tree.nodes[static_cast<size_t>(node)];
      tokens += n.prompt_delta.size() + n.action.size();
    }
  }
  return tokens;
}

std::vector<std::vector<double>> aggregation_factors(const Aggregation& aggregation,
                                                     const std::vector<Packed>& batches) {
  const std::string& mode = aggregation.loss_agg_mode;
  const double trees = static_cast<double>(aggregation.trees);
  double weight = 0;
  for (const Packed& batch : batches) {
    for (double of_edge : batch.edges.weight) weight += of_edge;
  }
  // Where no edge weighs anything, S⁺ and S⁻ are zero as well.
  const double inverse_weight = weight > 0 ? 1.0 / weight : 0.0;
  auto factor = [&](double inverse_length) {
    if (mode == "token-sum") return 1.0;
    if (mode == "token-mean") return inverse_weight;
    if (mode == "seq-mean-token-sum") return 1.0 / trees;
    if (mode == "seq-mean-token-mean") return inverse_length / trees;
    if (mode == "seq-mean-token-sum-norm") return 1.0 / (trees * aggregation.scale_factor);
    throw common::ConfigError("loss_agg_mode: got '" + mode +
                              "'; allowed: token-mean, token-sum, seq-mean-token-sum, "
                              "seq-mean-token-mean, seq-mean-token-sum-norm");
  };
  std::vector<std::vector<double>> factors;
  for (const Packed& batch : batches) {
    std::vector<double>& of_batch = factors.emplace_back();
    for (double inverse_length : batch.edges.inverse_length)
      of_batch.push_back(factor(inverse_length));
  }
  return factors;
}

}  // namespace espalier::learner
