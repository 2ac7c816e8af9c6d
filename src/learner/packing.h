// Packing: trees → flat token arrays that the model sees once. No torch in this header.
//
// A tree is cut into segments, maximal runs of tokens without a branching, laid out depth first: a
// segment's descendants are one contiguous range behind it. Siblings of a fork carry the same
// observation; what their prompt deltas have in common at the front belongs to the parent's
// segment, so each token is computed once and the last common state predicts the first action token
// of every child: one state, several targets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::learner {

struct Segment {
  int64_t begin = 0, end = 0;  // its tokens; may be empty
  int64_t subtree_end = 0;     // its descendants' tokens: [end, subtree_end)
  int level = 0;               // branchings above it
};

/// Action tokens to learn from (loss_mask 1), a column a field.
struct Edges {
  std::vector<int64_t> state;   // packed token whose hidden state predicts …
  std::vector<int64_t> target;  // … this packed token
  std::vector<float> rollout_log_prob;
  std::vector<double> s_plus, s_minus;
  std::vector<double> share;   // part of its tree's edge that this copy stands for; 1 when packed
  std::vector<double> weight;  // ω of its node, 1 without estimates, times share
  std::vector<double> inverse_length;  // mean of 1/T over its node's leaves, weighed by their ω;
                                       // T: edges of the path to the leaf
  std::vector<int> tree;               // index in the list given to pack()
  size_t size() const { return state.size(); }
};

/// Root-to-leaf paths, for losses over whole sequences: a pair an edge and a path through it.
struct Paths {
  int64_t count = 0;
  std::vector<int64_t> edge, path;
  std::vector<double> credit;  // the path's leaf's coefficient at the edge, its weight included
  std::vector<double> share;   // part of the edge (as it stands here) that the path is
};

/// One micro-batch.
struct Packed {
  std::vector<int64_t> tokens;
  std::vector<int64_t> positions;  // depth on the path, from 0
  std::vector<Segment> segments;   // depth first, one tree after another
  Edges edges;
  Paths paths;  // with PackOptions::with_paths
};

enum class Packing {
  packed,  // each token of a tree once
  linear,  // each root-to-leaf path a sequence of its own: reference and baseline
};

struct PackOptions {
  Packing packing = Packing::packed;
  int64_t max_tokens = 16384;  // of a micro-batch
  /// The recorded log-probs and the estimator's weights are wanted. Not so for behaviour cloning,
  /// whose edges all weigh the same.
  bool with_estimates = true;
  bool with_paths = false;  // needs the estimator's leaf credits
};

/// Micro-batches in the trees' order. Whole trees (paths, when linear) are put together up to
/// max_tokens; a single one above it is a micro-batch of its own. In the linear packing each of the
/// |L(n)| copies of node n's edges carries 1/|L(n)| of S⁺, S⁻ and of the edge, so that the
/// objective is the same function of the parameters. A filtered node (tree/shaping.h) is context:
/// its S⁺, S⁻ and ω count as 0. Errors: Error naming the tree and node when the prompt is empty, a
/// node's columns differ in length, or leaf credits that are wanted are missing.
std::vector<Packed> pack(const std::vector<const tree::Tree*>& trees, const PackOptions& options);

/// Tokens of all root-to-leaf paths: what the linear packing computes.
uint64_t linear_tokens(const tree::Tree& tree);

/// loss_agg_mode → the factor of every edge, a vector a micro-batch; `batches` are all of one
/// optimizer update over `trees` trees:
///   token-sum            1
///   token-mean           1 / Σ ω over the edges of the update
///   seq-mean-token-sum   1 / trees
///   seq-mean-token-mean  inverse_length / trees
///   seq-mean-token-sum-norm  1 / (trees · scale_factor)
/// A tree's episodes are the sequences. S⁺ and S⁻ hold the estimator's weights ω, which sum to one
/// over a tree's branches: so without forks each mode is what it is for linear rollouts, with the
/// mean over a tree's episodes. Edges whose leaves have no reward (ω = 0) count nowhere. Errors:
/// ConfigError.
struct Aggregation {
  std::string loss_agg_mode = "token-mean";
  size_t trees = 1;
  double scale_factor = 1;
};
std::vector<std::vector<double>> aggregation_factors(const Aggregation& aggregation,
                                                     const std::vector<Packed>& batches);

}  // namespace espalier::learner
