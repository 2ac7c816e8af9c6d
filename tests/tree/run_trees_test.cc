#include "tree/run_trees.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/files.h"
#include "tree/journal.h"
#include "tree/random_tree.h"
#include "tree/store.h"

namespace espalier::tree {
namespace {

using testing::random_tree;

/// Trees 0 to 5 in two shards; 6 sealed and 7 unfinished in the journal alone; 3 in both.
class RunTrees : public ::testing::Test {
 protected:
  RunTrees() {
    for (uint64_t number = 0; number < 8; ++number) trees_.push_back(random_tree(number));
    write_trees(shard_path(run_.path(), 0), {trees_[0], trees_[1], trees_[2]});
    write_trees(shard_path(run_.path(), 1), {trees_[3], trees_[4], trees_[5]});
    JournalWriter journal(run_.path() / "journal", Durability::none);
    for (uint64_t number : {3, 6, 7}) append(journal, trees_[number], number != 7);
  }

  static void append(JournalWriter& journal, const Tree& tree, bool seal) {
    Event event;
    event.tree_index = tree.index;
    event.type = EventType::tree_started;
    event.header = tree;
    journal.append(event);
    event.type = EventType::turn;
    for (const Node& node : tree.nodes) {
      event.node = node.id;
      event.path = node.path;
      event.parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
      event.payload = node;
      journal.append(event);
    }
    event.type = EventType::tree_sealed;
    if (seal) journal.append(event);
  }

  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const common::ConfigError& error) {
      return error.what();
    }
    return "no ConfigError";
  }

  common::TempDir run_;
  std::vector<Tree> trees_;
};

TEST_F(RunTrees, VisitsShardsThenTheJournal) {
  std::vector<std::pair<uint64_t, TreeState>> seen;
  visit_trees(run_.path(), [&](RunTree&& tree) {
    seen.emplace_back(tree.tree.index, tree.state);
    return true;
  });
  const std::vector<std::pair<uint64_t, TreeState>> expected = {
      {0, TreeState::stored}, {1, TreeState::stored},    {2, TreeState::stored},
      {3, TreeState::stored}, {4, TreeState::stored},    {5, TreeState::stored},
      {6, TreeState::sealed}, {7, TreeState::unfinished}};
  EXPECT_EQ(seen, expected);
}

TEST_F(RunTrees, DamageIsReportedAfterWhatSurvived) {
  const auto file = run_.path() / "journal" / "000001.log";
  std::string content = common::read_file(file);
  content.back() ^= 1;  // in the last turn of tree 7
  common::write_file_atomically(file, content);
  std::vector<uint64_t> seen;
  try {
    visit_trees(run_.path(), [&](RunTree&& tree) {
      seen.push_back(tree.tree.index);
      return true;
    });
    FAIL() << "the damage was not reported";
  } catch (const common::StoreError& error) {
    EXPECT_NE(std::string(error.what()).find("000001.log at byte"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(find_tree(run_.path(), 6).state, TreeState::sealed);
  EXPECT_THROW(find_tree(run_.path(), 99), common::StoreError) << "it may be behind the damage";
}

TEST_F(RunTrees, FindsTreesAndNodes) {
  for (const Tree& tree : trees_) {
    EXPECT_EQ(find_tree(run_.path(), tree.index).tree.nodes.size(), tree.nodes.size());
    for (size_t i = 0; i < tree.nodes.size(); i += 3) {
      const Node& node = tree.nodes[i];
      for (const std::string& name :
           {node.id.full_hex(), node.id.hex(), std::to_string(tree.index) + "/" + node.path}) {
        const FoundNode found = find_node(run_.path(), name);
        EXPECT_EQ(found.found.tree.nodes[found.node].id, node.id) << name;
      }
    }
  }
  const FoundNode root = find_node(run_.path(), "2/r0");
  EXPECT_EQ(root.found.tree.nodes[root.node].path, "r0/t0");
}

TEST_F(RunTrees, ErrorsSayWhatIsThere) {
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(message_of([&] { find_tree(run_.path() / "none", uint64_t{0}); }), "no such directory");
  has(message_of([&] { find_tree(run_.path() / "trees", uint64_t{0}); }), "not a run directory");
  has(message_of([&] { find_tree(run_.path(), uint64_t{99}); }), "trace log");
  has(message_of([&] { find_node(run_.path(), "2/r9/t9"); }), "did you mean 2/r0/t0");
  has(message_of([&] { find_node(run_.path(), "xyz"); }), "hex digits");
  has(message_of([&] { find_node(run_.path(), "ab"); }), "hex digits");
  has(message_of([&] { find_node(run_.path(), std::string(32, '0')); }), "no node of the run");
}

TEST_F(RunTrees, AmbiguousIdsAreErrors) {
  Tree twice;
  twice.index = 50;
  twice.step = 2;
  twice.nodes.resize(2);
  twice.nodes[0].id.bytes = {0xab, 0xcd, 1};
  twice.nodes[0].path = "r0/t0";
  twice.nodes[1].id.bytes = {0xab, 0xcd, 2};
  twice.nodes[1].path = "r1/t0";
  write_trees(shard_path(run_.path(), 2), {twice});
  const std::string message = message_of([&] { find_node(run_.path(), "abcd"); });
  EXPECT_NE(message.find("ambiguous"), std::string::npos) << message;
  EXPECT_NE(message.find("50/r0/t0"), std::string::npos) << message;
  EXPECT_NE(message.find("50/r1/t0"), std::string::npos) << message;
  EXPECT_EQ(find_node(run_.path(), "ABCD02").node, 1);
}

TEST(TreeSummary, Counts) {
  Tree tree;
  tree.nodes.resize(5);  // r0 → b0 (1), b1 (infra_failed), b2 (0); r1 not over
  for (int i : {1, 2, 3}) tree.nodes[i].parent = 0;
  tree.nodes[1].outcome = tree.nodes[3].outcome = Outcome::rewarded;
  tree.nodes[1].reward = 1;
  tree.nodes[2].outcome = Outcome::infra_failed;
  tree.nodes[3].reward = 0;
  const TreeSummary summary = summarise({tree, TreeState::unfinished});
  EXPECT_EQ(summary.roots, 2);
  EXPECT_EQ(summary.turns, 5);
  EXPECT_EQ(summary.forks, 1);
  EXPECT_EQ(summary.leaves, 4);
  EXPECT_EQ(summary.mean_reward, 0.5);
  EXPECT_EQ(summary.outcomes,
            (std::map<Outcome, int>{
                {Outcome::none, 1}, {Outcome::rewarded, 2}, {Outcome::infra_failed, 1}}));
}

}  // namespace
}  // namespace espalier::tree
