#include "app/recovered.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/synthetic_run.h"
#include "app/tree_metrics.h"
#include "common/files.h"
#include "tree/journal.h"

namespace espalier::app {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Journals one-episode trees as a farm does.
class Recorder {
 public:
  explicit Recorder(const std::filesystem::path& directory)
      : writer_(directory, tree::Durability::none) {}

  void write(uint64_t step, uint64_t index, bool sealed = true,
             tree::Outcome outcome = tree::Outcome::rewarded) {
    tree::Tree tree = one_turn(step);
    tree.index = index;
    tree.id = tree::prompt_id(tree);
    tree::Node node = std::exchange(tree.nodes, {}).at(0);
    node.id = tree::node_id(tree.id, node);
    tree::Event event;
    event.tree_index = index;
    event.type = tree::EventType::tree_started;
    event.node = tree.id;
    event.header = tree;
    writer_.append(event);
    event.header = {};
    event.type = tree::EventType::turn;
    event.node = node.id;
    event.parent = tree.id;
    event.path = node.path;
    event.payload = node;
    writer_.append(event);
    event.type = tree::EventType::verdict;
    event.payload = {};
    event.payload.outcome = outcome;
    if (outcome == tree::Outcome::rewarded) event.payload.reward = 1;
    writer_.append(event);
    event.type = tree::EventType::tree_sealed;
    event.node = tree.id;
    if (sealed) writer_.append(event);
  }

 private:
  static tree::Tree one_turn(uint64_t step) {
    testing::TreeBuilder builder("nursery:find/1/d1", "find", "find thorn", step);
    builder.reward(builder.turn(-1, "exit", ""), 1);
    return builder.build();
  }

  tree::JournalWriter writer_;
};

std::vector<uint64_t> recovered(const common::TempDir& journal, uint64_t step) {
  std::vector<uint64_t> indices;
  for (const tree::Tree& tree : recovered_trees(journal.path(), step)) {
    EXPECT_EQ(tree.step, step);
    indices.push_back(tree.index);
  }
  return indices;
}

TEST(RecoveredTrees, AreTheWholeOnesOfTheStep) {
  const common::TempDir journal;
  {
    Recorder recorder(journal.path());
    recorder.write(0, 0);
    recorder.write(1, 16);
    recorder.write(1, 17, /*sealed=*/false);
    recorder.write(1, 18, true, tree::Outcome::cancelled);
    recorder.write(1, 19);
  }
  EXPECT_THAT(recovered(journal, 1), ElementsAre(16, 19));
  EXPECT_THAT(recovered(journal, 0), ElementsAre(0));
  EXPECT_THAT(recovered(journal, 2), IsEmpty());
}

TEST(RecoveredTrees, AreNotThoseOfWeightsThatAreLost) {
  const common::TempDir journal;
  {
    Recorder recorder(journal.path());
    for (uint64_t step : {0, 1, 2}) recorder.write(step, 16 * step);
    recorder.write(1, 16);  // killed and resumed after step 1: its second step is another one
    recorder.write(2, 33);
  }
  EXPECT_THAT(recovered(journal, 2), ElementsAre(33));
  EXPECT_THAT(recovered(journal, 1), ElementsAre(16));
}

TEST(SpendOf, CountsAsTheFarmDoes) {
  const tree::Tree tree = testing::forked_tree(1);
  const tree::Spend spend = spend_of(tree);
  size_t exits = 0;
  for (const tree::Node& node : tree.nodes) exits += node.command == "exit";
  EXPECT_EQ(spend.generated_tokens, 4 * tree.nodes.size());
  EXPECT_EQ(spend.env_steps, tree.nodes.size() - exits) << "exit is not run";
  EXPECT_EQ(spend.leaves, tree.leaves().size());
  EXPECT_EQ(spend.verifier_runs, tree.leaves().size() - 1) << "one leaf failed before";
}

TEST(TreeMetrics, BranchFactorIsLeavesARoot) {
  const common::Metrics metrics = tree_metrics({testing::forked_tree(1)}, 16);
  EXPECT_DOUBLE_EQ(metrics.at("tree/branch_factor"), 10.0 / 8);
  EXPECT_DOUBLE_EQ(metrics.at("tree/forks"), 2);
  EXPECT_DOUBLE_EQ(metrics.at("env/infra_failed_rate"), 1.0 / 10);
}

}  // namespace
}  // namespace espalier::app
