#include "learner/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/error.h"
#include "learner/attention_plan.h"
#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::TreeMaker;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

tree::Node node(int parent, std::vector<tree::Token> delta, std::vector<tree::Token> action) {
  tree::Node node;
  node.parent = parent;
  node.path = "n";
  node.prompt_delta = std::move(delta);
  node.action = std::move(action);
  node.loss_mask.assign(node.action.size(), 1);
  node.log_probs.assign(node.action.size(), -1.0F);
  node.s_plus = 0.5;
  node.s_minus = -0.25;
  return node;
}

/// Prompt 1 2; two roots: 10 11 | and 20 | ; the second is observed as 5 6 and forks into 30 31
/// and 40.
tree::Tree forked_tree() {
  tree::Tree tree;
  tree.task = "t";
  tree.prompt_tokens = {1, 2};
  tree.nodes = {node(-1, {}, {10, 11}), node(-1, {}, {20}), node(1, {5, 6}, {30, 31}),
                node(1, {5, 6}, {40})};
  tree.nodes[1].branch = tree.nodes[3].branch = 1;
  return tree;
}

TEST(Packing, ComputesEveryTokenOnceAndPredictsAllChildrenFromOneState) {
  const tree::Tree tree = forked_tree();
  const std::vector<Packed> batches = pack({&tree}, {});
  ASSERT_EQ(batches.size(), 1u);
  const Packed& packed = batches[0];
  EXPECT_THAT(packed.tokens, ElementsAre(1, 2, 10, 11, 20, 5, 6, 30, 31, 40));
  EXPECT_THAT(packed.positions, ElementsAre(0, 1, 2, 3, 2, 3, 4, 5, 6, 5));
  EXPECT_THAT(packed.edges.state, ElementsAre(1, 2, 1, 6, 7, 6));
  EXPECT_THAT(packed.edges.target, ElementsAre(2, 3, 4, 7, 8, 9));
  ASSERT_EQ(packed.segments.size(), 5u);
  const Segment& prompt = packed.segments[0];
  EXPECT_THAT((std::vector<int64_t>{prompt.begin, prompt.end, prompt.subtree_end}),
              ElementsAre(0, 2, 10));
  const Segment& second_root = packed.segments[2];
  EXPECT_THAT((std::vector<int64_t>{second_root.begin, second_root.end, second_root.subtree_end}),
              ElementsAre(4, 7, 10));
  EXPECT_EQ(second_root.level, 1);
}

TEST(Packing, DifferentObservationsOfSiblingsSplitWhereTheyDiffer) {
  tree::Tree tree = forked_tree();
  tree.nodes[3].prompt_delta = {5, 7};
  const Packed packed = pack({&tree}, {}).at(0);
  EXPECT_THAT(packed.tokens, ElementsAre(1, 2, 10, 11, 20, 5, 6, 30, 31, 7, 40));
  EXPECT_THAT(packed.edges.state, ElementsAre(1, 2, 1, 6, 7, 9));
  EXPECT_THAT(packed.positions, ElementsAre(0, 1, 2, 3, 2, 3, 4, 5, 6, 4, 5));
}

TEST(Packing, AnUnbranchedEpisodeIsOneSegment) {
  tree::Tree tree;
  tree.prompt_tokens = {1};
  tree.nodes = {node(-1, {}, {2}), node(0, {3}, {4, 5})};
  const Packed packed = pack({&tree}, {}).at(0);
  ASSERT_EQ(packed.segments.size(), 1u);
  EXPECT_EQ(packed.segments[0].end, 5);
  EXPECT_EQ(plan_attention(packed.segments, 5).groups.size(), 1u);
}

TEST(Packing, MaskedTokensAreContextButNoEdges) {
  tree::Tree tree = forked_tree();
  tree.nodes[2].loss_mask = {0, 1};
  const Packed packed = pack({&tree}, {}).at(0);
  EXPECT_EQ(packed.tokens.size(), 10u);
  EXPECT_THAT(packed.edges.target, ElementsAre(2, 3, 4, 8, 9));
}

TEST(Packing, LinearCopiesShareTheirEdges) {
  const tree::Tree tree = forked_tree();
  PackOptions options;
  options.packing = Packing::linear;
  const Packed packed = pack({&tree}, options).at(0);
  EXPECT_THAT(packed.tokens, ElementsAre(1, 2, 10, 11, 1, 2, 20, 5, 6, 30, 31, 1, 2, 20, 5, 6, 40));
  EXPECT_EQ(packed.tokens.size(), linear_tokens(tree));
  EXPECT_EQ(packed.segments.size(), 3u);
  EXPECT_THAT(packed.edges.share, ElementsAre(1, 1, 0.5, 1, 1, 0.5, 1));
  EXPECT_THAT(packed.edges.s_plus, ElementsAre(0.5, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5));
}

TEST(Packing, MicroBatchesHoldWholeTreesWithinTheBudget) {
  const tree::Tree tree = forked_tree();
  PackOptions options;
  options.max_tokens = 25;
  const std::vector<Packed> batches = pack({&tree, &tree, &tree}, options);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[0].tokens.size(), 20u);
  EXPECT_EQ(batches[0].segments[5].begin, 10);
  EXPECT_EQ(batches[0].edges.state[6], 11);
  EXPECT_EQ(batches[1].edges.tree.front(), 2);
  options.max_tokens = 3;
  EXPECT_EQ(pack({&tree, &tree}, options).size(), 2u) << "a larger tree is a batch of its own";
}

TEST(Packing, RefusesWhatCannotBeTrainedOn) {
  tree::Tree tree = forked_tree();
  tree.nodes[0].log_probs.pop_back();
  EXPECT_THROW(pack({&tree}, {}), common::Error);
  PackOptions options;
  options.with_estimates = false;
  EXPECT_NO_THROW(pack({&tree}, options));
  tree.nodes[0].loss_mask.pop_back();
  EXPECT_THROW(pack({&tree}, options), common::Error);
  tree.prompt_tokens.clear();
  try {
    pack({&tree}, options);
    FAIL() << "an empty prompt was accepted";
  } catch (const common::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tree t"));
  }
}

/// Σ factor · S over all edges, S⁺ + S⁻ being the gradient's coefficient at ratio 1.
double aggregated(const std::string& mode, const std::vector<tree::Tree>& trees) {
  const std::vector<Packed> batches = pack(pointers(trees), {});
  const auto factors = aggregation_factors({mode, trees.size(), 64}, batches);
  double total = 0;
  for (size_t b = 0; b < batches.size(); ++b) {
    const Edges& edges = batches[b].edges;
    for (size_t e = 0; e < edges.size(); ++e)
      total += factors[b][e] * (edges.s_plus[e] + edges.s_minus[e]);
  }
  return total;
}

/// Two prompts, three episodes each, of 1, 2 and 3 tokens with advantages 1, −2 and 1; the modes as
/// defined for linear rollouts.
TEST(Packing, WithoutForksTheModesAreTheLinearOnes) {
  tree::Tree tree;
  tree.prompt_tokens = {1};
  const std::vector<double> advantages = {1, -2, 1};
  for (int root = 0; root < 3; ++root) {
    tree::Node episode = node(-1, {}, std::vector<tree::Token>(static_cast<size_t>(root) + 1, 7));
    episode.branch = root;
    episode.weight = 1.0 / 3;
    episode.s_plus = std::max(advantages[static_cast<size_t>(root)] / 3, 0.0);
    episode.s_minus = std::min(advantages[static_cast<size_t>(root)] / 3, 0.0);
    tree.nodes.push_back(episode);
  }
  const std::vector<tree::Tree> trees = {tree, tree};
  const double token_sum = 1 * 1 - 2 * 2 + 3 * 1;  // of a prompt's episodes
  EXPECT_NEAR(aggregated("token-mean", trees), token_sum / 6, 1e-12);
  EXPECT_NEAR(aggregated("seq-mean-token-sum", trees), token_sum / 3, 1e-12);
  EXPECT_NEAR(aggregated("seq-mean-token-mean", trees), (1.0 - 2.0 + 1.0) / 3, 1e-12);
  EXPECT_NEAR(aggregated("seq-mean-token-sum-norm", trees), token_sum / 3 / 64, 1e-12);
  // A failed episode (no reward: ω, S⁺ and S⁻ are 0) changes nothing.
  std::vector<tree::Tree> failed = trees;
  failed[0].nodes.push_back(node(-1, {}, {7, 7, 7, 7}));
  failed[0].nodes.back().s_plus = failed[0].nodes.back().s_minus = 0;
  for (const char* mode : {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum",
                           "seq-mean-token-sum-norm"})
    EXPECT_EQ(aggregated(mode, failed), aggregated(mode, trees)) << mode;
  for (tree::Node& episode : tree.nodes) episode.weight = episode.s_plus = episode.s_minus = 0;
  for (const char* mode : {"token-mean", "seq-mean-token-mean"})
    EXPECT_EQ(aggregated(mode, {tree}), 0.0) << mode;
}

TEST(Packing, AggregationIsTheSameInBothPackings) {
  const std::vector<tree::Tree> trees = TreeMaker(3, {}).make(4);
  for (const std::string mode : {"token-mean", "token-sum", "seq-mean-token-sum",
                                 "seq-mean-token-mean", "seq-mean-token-sum-norm"}) {
    std::vector<double> totals;
    for (Packing packing : {Packing::packed, Packing::linear}) {
      PackOptions options;
      options.packing = packing;
      options.max_tokens = 40;
      const std::vector<Packed> batches = pack(pointers(trees), options);
      const auto factors = aggregation_factors({mode, trees.size(), 64}, batches);
      double total = 0;
      for (size_t b = 0; b < batches.size(); ++b) {
        for (size_t e = 0; e < batches[b].edges.size(); ++e)
          total += factors[b][e] * batches[b].edges.weight[e];
      }
      totals.push_back(total);
    }
    EXPECT_NEAR(totals[0], totals[1], 1e-9) << mode;
    if (mode == "token-mean") {
      EXPECT_NEAR(totals[0], 1.0, 1e-9) << mode;
    }
  }
  EXPECT_THROW(aggregation_factors({"mean", trees.size()}, pack(pointers(trees), {})),
               common::ConfigError);
}

/// Behind a branching an edge counts 1/T of each path through it.
TEST(Packing, LengthsOfABranchedTree) {
  tree::Tree tree = forked_tree();
  tree.nodes[0].weight = 0.5;
  tree.nodes[1].weight = 0.5;
  tree.nodes[2].weight = tree.nodes[3].weight = 0.25;
  const Packed packed = pack({&tree}, {}).at(0);
  const double shared = (1.0 / 3 + 1.0 / 2) / 2;  // paths of 1 + 2 and 1 + 1 tokens
  EXPECT_THAT(packed.edges.inverse_length,
              ElementsAre(0.5, 0.5, shared, 1.0 / 3, 1.0 / 3, 1.0 / 2));
}

TEST(Packing, PathsPairEdgesWithTheLeavesBelow) {
  tree::Tree tree = forked_tree();
  for (tree::Node& n : tree.nodes) n.weight = 0.25;
  tree.nodes[0].weight = 0;  // its episode failed
  tree.nodes[1].leaf_credits = {0.5, -0.25};
  tree.nodes[2].leaf_credits = {1};
  tree.nodes[3].leaf_credits = {-2};
  PackOptions options;
  options.with_paths = true;
  const Packed packed = pack({&tree}, options).at(0);
  EXPECT_EQ(packed.paths.count, 2);
  EXPECT_THAT(packed.paths.edge, ElementsAre(2, 3, 4, 2, 5));
  EXPECT_THAT(packed.paths.path, ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(packed.paths.credit, ElementsAre(0.5, 1, 1, -0.25, -2));
  EXPECT_THAT(packed.paths.share, ElementsAre(0.5, 1, 1, 0.5, 1));
  options.packing = Packing::linear;
  const Packed linear = pack({&tree}, options).at(0);
  EXPECT_EQ(linear.paths.count, 2);
  EXPECT_THAT(linear.paths.edge, ElementsAre(2, 3, 4, 5, 6));
  EXPECT_THAT(linear.paths.credit, ElementsAre(0.5, 1, 1, -0.25, -2));
  EXPECT_THAT(linear.paths.share, ElementsAre(1, 1, 1, 1, 1));
  tree.nodes[1].leaf_credits.clear();
  EXPECT_THROW(pack({&tree}, options), common::Error);
}

TEST(Packing, FilteredNodesAreContext) {
  tree::Tree tree = forked_tree();
  for (tree::Node& n : tree.nodes) n.weight = 1;
  tree.nodes[2].filtered = true;
  const Packed packed = pack({&tree}, {}).at(0);
  EXPECT_EQ(packed.tokens.size(), 10u);
  EXPECT_THAT(packed.edges.weight, ElementsAre(1, 1, 1, 0, 0, 1));
  EXPECT_THAT(packed.edges.s_plus, ElementsAre(0.5, 0.5, 0.5, 0, 0, 0.5));
}

/// Whether token k is q itself or before it on its path, by positions and segments.
bool sees(const std::vector<Segment>& segments, int64_t q, int64_t k) {
  for (const Segment& s : segments) {
    const bool k_in = s.begin <= k && k < s.end;
    if (k_in) return k <= q && q < s.subtree_end;
  }
  return false;
}

TEST(AttentionPlan, EveryVisiblePairIsInExactlyOnePiece) {
  test::RandomTreeOptions options;
  options.depth = 5;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const std::vector<tree::Tree> trees = TreeMaker(seed, options).make(3);
    const Packed packed = pack(pointers(trees), {}).at(0);
    const int64_t n = static_cast<int64_t>(packed.tokens.size());
    const AttentionPlan plan = plan_attention(packed.segments, n);
    std::multiset<std::pair<int64_t, int64_t>> pairs;
    for (const PieceGroup& group : plan.groups) {
      const std::set<int64_t> real(group.query_slots.begin(), group.query_slots.end());
      const std::set<int64_t> unique(group.query_tokens.begin(), group.query_tokens.end());
      EXPECT_EQ(unique.size(), group.query_tokens.size()) << "a query occurs twice in a group";
      for (int64_t b = 0; b < group.batch; ++b) {
        for (int64_t i = 0; i < group.queries; ++i) {
          if (!real.contains(b * group.queries + i)) continue;
          for (int64_t j = 0; j < (group.causal ? i + 1 : group.keys); ++j) {
            const size_t key = static_cast<size_t>(b * group.keys + j);
            if (!group.key_is_padding.empty() && group.key_is_padding[key]) continue;
            pairs.emplace(group.query_rows[static_cast<size_t>(b * group.queries + i)],
                          group.key_rows[key]);
          }
        }
      }
    }
    for (int64_t q = 0; q < n; ++q) {
      for (int64_t k = 0; k < n; ++k) {
        ASSERT_EQ(pairs.count({q, k}), sees(packed.segments, q, k) ? 1u : 0u) << q << " sees " << k;
      }
    }
  }
}

}  // namespace
}  // namespace espalier::learner
