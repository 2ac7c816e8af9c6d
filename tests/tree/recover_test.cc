#include <gtest/gtest.h>

#include <map>

#include "common/error.h"
#include "common/files.h"
#include "tree/journal.h"
#include "tree/journal_events.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using common::TempDir;
using testing::events_of;
using testing::overwrite;
using testing::random_tree;

TEST(Recover, RebuildsTheTrees) {
  TempDir dir;
  std::vector<Tree> trees;
  {
    JournalWriter writer(dir.path(), Durability::batch);
    std::vector<std::vector<Event>> streams;
    for (uint64_t number = 0; number < 30; ++number) {
      trees.push_back(random_tree(number));
      streams.push_back(events_of(trees.back(), number % 3 != 0));
    }
    for (size_t i = 0, left = 1; left > 0; ++i) {  // interleaved, as concurrent episodes append
      left = 0;
      for (const auto& stream : streams) {
        if (i < stream.size()) writer.append(stream[i]);
        left += i + 1 < stream.size();
      }
    }
  }
  const auto recovered = recover_trees(dir.path());
  ASSERT_EQ(recovered.size(), trees.size());
  for (size_t i = 0; i < trees.size(); ++i) {
    EXPECT_TRUE(testing::same_tree(recovered[i].tree, trees[i])) << i;
    EXPECT_EQ(recovered[i].sealed, i % 3 != 0);
  }
  EXPECT_EQ(recover_trees(dir.path(), {.skip = {0, 5}, .from = {}}).size(), trees.size() - 2);
}

/// However short the journal, what is recovered is a part of the tree with its nodes' parents.
TEST(Recover, TolerantOfMissingTails) {
  const Tree tree = random_tree(11);
  const auto events = events_of(tree);
  for (size_t count = 0; count <= events.size(); ++count) {
    TempDir dir;
    {
      JournalWriter writer(dir.path(), Durability::none);
      for (size_t i = 0; i < count; ++i) writer.append(events[i]);
    }
    const auto recovered = recover_trees(dir.path());
    ASSERT_EQ(recovered.size(), count == 0 ? 0u : 1u);
    if (count == 0) continue;
    EXPECT_EQ(recovered[0].sealed, count == events.size());
    for (const Node& node : recovered[0].tree.nodes)
      EXPECT_EQ(node.id,
                node_id(node.parent < 0 ? tree.id : recovered[0].tree.nodes[node.parent].id, node));
  }
}

TEST(Recover, FindsParentsByPathWhenTheIdIsNotGiven) {
  TempDir dir;
  const Tree tree = random_tree(11);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (Event event : events_of(tree)) {
      event.parent = {};
      writer.append(event);
    }
  }
  EXPECT_TRUE(testing::same_tree(recover_trees(dir.path()).at(0).tree, tree));
}

TEST(Recover, TellsDamageFromAnUnfinishedEnd) {
  TempDir dir;
  const Tree tree = random_tree(11);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (const Event& event : events_of(tree)) writer.append(event);
  }
  const std::filesystem::path file = dir.path() / "000001.log";
  const std::string whole = common::read_file(file);
  std::string damage = "stale";
  EXPECT_TRUE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_EQ(damage, "");
  overwrite(file, whole.substr(0, whole.size() - 3));
  EXPECT_FALSE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_EQ(damage, "");
  std::string damaged = whole;
  damaged[whole.size() - 3] ^= 1;
  overwrite(file, damaged);
  EXPECT_FALSE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_NE(damage.find("checksum"), std::string::npos) << damage;
}

TEST(Recover, ATreeStartedAgainStartsAnew) {
  TempDir dir;
  const Tree tree = random_tree(4);
  auto events = events_of(tree);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (size_t i = 0; i + 2 < events.size(); ++i) writer.append(events[i]);
    for (const Event& event : events) writer.append(event);
  }
  const auto recovered = recover_trees(dir.path());
  ASSERT_EQ(recovered.size(), 1u);
  EXPECT_TRUE(testing::same_tree(recovered[0].tree, tree));
}

TEST(Recover, AGivenUpNodeIsDroppedUnlessItIsDoneAgain) {
  Tree tree = random_tree(4, {.failure_probability = 0});
  const size_t last = tree.nodes.size() - 1;
  auto events = events_of(tree);
  Event failure;
  failure.type = EventType::failure;
  failure.tree_index = tree.index;
  failure.node = tree.nodes[last].id;
  failure.text = R"({"retry":1})";
  std::vector<Event> of_last;
  for (const Event& event : events)
    if (event.node == failure.node) of_last.push_back(event);

  TempDir dir, again_dir;
  {
    JournalWriter writer(dir.path(), Durability::none), again(again_dir.path(), Durability::none);
    for (const Event& event : events) {
      writer.append(event);
      again.append(event);
    }
    writer.append(failure);
    again.append(failure);
    for (const Event& event : of_last) again.append(event);
  }
  EXPECT_TRUE(testing::same_tree(recover_trees(again_dir.path()).at(0).tree, tree));
  tree.nodes.pop_back();
  EXPECT_TRUE(testing::same_tree(recover_trees(dir.path()).at(0).tree, tree));
}

}  // namespace
}  // namespace espalier::tree
