#include "tree/trace_tree.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "common/sha256.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using testing::random_tree;

TEST(TraceTree, CanonicalOrderDoesNotDependOnArrival) {
  for (uint64_t number = 0; number < 200; ++number) {
    const Tree in_order = random_tree(number);
    Tree shuffled = random_tree(number, {.shuffled = true});
    shuffled.canonicalise();
    EXPECT_TRUE(testing::same_tree(in_order, shuffled)) << "tree " << number;
  }
}

TEST(TraceTree, CanonicalOrderIsDepthFirst) {
  Tree tree = random_tree(5, {.shuffled = true});
  tree.canonicalise();
  const auto children = tree.children();
  int expected = 0;
  std::function<void(int)> visit = [&](int node) {
    EXPECT_EQ(node, expected++);
    for (size_t i = 0; i < children[node].size(); ++i) {
      EXPECT_EQ(tree.nodes[children[node][i]].branch, static_cast<int>(i));
      visit(children[node][i]);
    }
  };
  for (int root : tree.roots()) visit(root);
  EXPECT_EQ(expected, static_cast<int>(tree.nodes.size()));
  for (int leaf : tree.leaves()) EXPECT_TRUE(tree.is_leaf(leaf));
}

TEST(TraceTree, PathsAreUniqueAndNameTheirParents) {
  for (uint64_t number = 0; number < 100; ++number) {
    const Tree tree = random_tree(number);
    std::set<std::string> seen;
    for (const Node& node : tree.nodes) {
      EXPECT_TRUE(seen.insert(node.path).second) << node.path;
      EXPECT_EQ(parent_path(node.path), node.parent < 0 ? "" : tree.nodes[node.parent].path);
    }
  }
}

TEST(TraceTree, PathExamples) {
  EXPECT_EQ(root_path(2), "r2/t0");
  EXPECT_EQ(child_path("r2/t4", 5, 1, true), "r2/t5/b1");
  EXPECT_EQ(child_path("r2/t5/b1", 6, 0, false), "r2/t5/b1/t6");
  EXPECT_EQ(child_path("r2/t5/b1", 6, 1, true), "r2/t5/b1/t6/b1");
  EXPECT_EQ(parent_path("r2/t5/b1/t6/b1"), "r2/t5/b1");
  EXPECT_EQ(parent_path("r2/t5/b1/t7"), "r2/t5/b1/t6");
  EXPECT_EQ(parent_path("r2/t0"), "");
  for (const char* odd : {"", "r2", "/", "t3", "r2/x5", "r2/t", "r2/t-1", "b1", "r1/b2"})
    EXPECT_EQ(parent_path(odd), "") << odd;
}

/// Every field the id promises to cover changes it.
TEST(TraceTree, IdCoversThePayload) {
  const Tree tree = random_tree(3);
  const Node node = tree.nodes[0];
  ASSERT_EQ(node_id(tree.id, node), node.id);
  const std::vector<std::function<void(Node&)>> changes = {
      [](Node& n) { n.branch += 1; },
      [](Node& n) { n.turn += 1; },
      [](Node& n) { n.prompt_delta.push_back(1); },
      [](Node& n) { n.action[0] ^= 1; },
      [](Node& n) { n.log_probs[0] += 0.5f; },
      [](Node& n) { n.entropies[0] += 0.5f; },
      [](Node& n) { n.loss_mask[0] ^= 1; },
      [](Node& n) { n.first_entropy += 0.5f; },
      [](Node& n) { n.policy_version += 1; },
      [](Node& n) { n.sampling_key ^= 1; },
      [](Node& n) { n.command += " "; },
  };
  std::set<NodeId> ids{node.id};
  for (const auto& change : changes) {
    Node changed = node;
    change(changed);
    EXPECT_TRUE(ids.insert(node_id(tree.id, changed)).second);
  }
  NodeId other = tree.id;
  other.bytes[31] ^= 1;
  EXPECT_TRUE(ids.insert(node_id(other, node)).second);

  Node same = node;  // what comes after the action is no part of it
  same.observation = "else";
  same.fork_origin = ForkOrigin::live;
  EXPECT_EQ(node_id(tree.id, same), node.id);
}

/// The encoding of docs/format.md, byte for byte: a stored run must keep its ids.
TEST(TraceTree, IdIsTheDocumentedHash) {
  Node node;
  node.action = {7};
  node.log_probs = {-0.5f};
  node.entropies = {1.0f};
  node.loss_mask = {1};
  node.command = "ls";
  auto zeros = [](size_t count) { return std::string(count, '\0'); };
  auto count = [&](char n) { return std::string(1, n) + zeros(7); };
  std::string preimage = count(15) + "espalier.node.1" + zeros(32);
  preimage += zeros(4) + std::string("\3\0", 2) + zeros(4);      // branch, type, turn
  preimage += count(0) + count(1) + std::string("\7\0\0\0", 4);  // delta, action
  preimage += count(1) + std::string("\0\0\0\xbf", 4);           // -0.5f
  preimage += count(1) + std::string("\0\0\x80\x3f", 4);         // 1.0f
  preimage += count(1) + "\1" + zeros(4) + zeros(8) + zeros(8);  // mask … sampling key
  preimage += count(2) + "ls";
  EXPECT_EQ(node_id(NodeId{}, node).bytes, common::sha256(preimage));
}

TEST(TraceTree, PromptIdCoversTheHeader) {
  const Tree tree = random_tree(3);
  std::set<NodeId> ids{tree.id};
  const std::vector<std::function<void(Tree&)>> changes = {
      [](Tree& t) { t.run_seed += 1; },
      [](Tree& t) { t.index += 1; },
      [](Tree& t) { t.step += 1; },
      [](Tree& t) { t.task += "x"; },
      [](Tree& t) { t.family += "x"; },
      [](Tree& t) { t.prompt += "x"; },
      [](Tree& t) { t.prompt_tokens[0] ^= 1; }};
  for (const auto& change : changes) {
    Tree changed = tree;
    change(changed);
    EXPECT_TRUE(ids.insert(prompt_id(changed)).second);
  }
}

TEST(TraceTree, IdsPrintInFullAndShort) {
  const NodeId id = random_tree(1).id;
  const std::string whole = id.full_hex();
  EXPECT_EQ(whole, common::to_hex(id.bytes.data(), id.bytes.size()));
  EXPECT_EQ(id.hex(), whole.substr(0, 32));
  EXPECT_TRUE(NodeId{}.is_zero());
  EXPECT_FALSE(id.is_zero());
}

}  // namespace
}  // namespace espalier::tree
