// trace fork, replay and counterfactuals on a real run, each in a process of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/mini_run.h"
#include "common/error.h"
#include "common/files.h"
#include "tree/run_trees.h"
#include "tree/store.h"
#include "tree/verify.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class TraceSandbox : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = new common::TempDir("espalier-trace-test");
    trained_ = new test::Finished(
        test::run(test::train(scratch_->path(), {"eval.n=0", "trainer.total_steps=2", "seed=5",
                                                 "env.snapshots=keep-all", "deterministic=true"})));
  }
  static void TearDownTestSuite() {
    delete trained_;
    delete scratch_;
  }
  void SetUp() override {
    if (trained_->exit_code == common::kExitUnsupported)
      GTEST_SKIP() << "this machine makes no sandboxes: " << trained_->output;
    ASSERT_EQ(trained_->exit_code, 0) << trained_->output;
  }

  static fs::path run() { return scratch_->path() / "mini"; }

  /// stdout alone where it is JSON: the rest goes to stderr, which the harness of tests merges.
  static test::Finished trace(const fs::path& run, const std::string& command,
                              std::vector<std::string> more) {
    std::vector<std::string> arguments = {"trace", command, run.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::run(test::espalier(std::move(arguments)));
  }

  /// A turn that is not its episode's last and ran a command, as deep as there is one.
  static tree::FoundNode deep_node() {
    tree::FoundNode best;
    int deepest = -1;
    tree::visit_trees(run(), [&](tree::RunTree&& found) {
      const auto children = found.tree.children();
      for (size_t i = 0; i < found.tree.nodes.size(); ++i) {
        const tree::Node& node = found.tree.nodes[i];
        if (children[i].empty() || node.snapshot.empty() || node.turn <= deepest) continue;
        deepest = node.turn;
        best = {found, static_cast<int>(i)};
      }
      return true;
    });
    return best;
  }

  static std::string name_of(const tree::FoundNode& place) {
    return std::to_string(place.found.tree.index) + "/" + place.found.tree.nodes[place.node].path;
  }

  /// What of the run's record must never change.
  static std::map<std::string, std::string> record() {
    std::map<std::string, std::string> files;
    for (const char* part : {"journal", "trees", "snapshots", "checkpoints"})
      for (const auto& entry : fs::recursive_directory_iterator(run() / part))
        if (entry.is_regular_file()) files[entry.path()] = common::read_file(entry.path());
    return files;
  }

  static common::TempDir* scratch_;
  static test::Finished* trained_;
};
common::TempDir* TraceSandbox::scratch_ = nullptr;
test::Finished* TraceSandbox::trained_ = nullptr;

TEST_F(TraceSandbox, ForkOpensTheNodesSnapshotAndChangesNothing) {
  const tree::FoundNode node = deep_node();
  ASSERT_GE(node.node, 0);
  const auto before = record();
  const auto forked =
      trace(run(), "fork", {name_of(node), "--json", "--", "echo new > made; cat made; exit 3"});
  EXPECT_EQ(forked.exit_code, 3) << forked.output;
  const json seen = json::parse(forked.output);
  EXPECT_EQ(seen.at("output"), "new\n");
  EXPECT_EQ(seen.at("snapshot"), node.found.tree.nodes[node.node].snapshot);
  EXPECT_TRUE(seen.at("run_again").empty());
  EXPECT_EQ(before, record());
  const auto again = trace(run(), "fork", {name_of(node), "--", "cat made"});
  EXPECT_NE(again.exit_code, 0) << "the file of the first fork is there: " << again.output;
}

TEST_F(TraceSandbox, ForkKnowsTheStartAndTakesWordsAsTheyAre) {
  const auto start =
      trace(run(), "fork", {"task-0", "--json", "--", "printf", "%s|", "a b", "c'd"});
  EXPECT_EQ(start.exit_code, 0) << start.output;
  EXPECT_EQ(json::parse(start.output).at("output"), "a b|c'd|");
  EXPECT_EQ(trace(run(), "fork", {"task-0", "--json"}).exit_code, common::kExitUsage);
  const auto wrong = trace(run(), "fork", {"0/r77/t5", "--", "true"});
  EXPECT_EQ(wrong.exit_code, common::kExitUsage);
  EXPECT_THAT(wrong.output, HasSubstr("did you mean 0/r"));
}

TEST_F(TraceSandbox, ReplayGivesWhatIsRecorded) {
  const auto replayed = trace(run(), "replay", {"--json"});
  const json seen = json::parse(replayed.output.substr(replayed.output.find('{')));
  EXPECT_TRUE(seen.at("ok")) << replayed.output;
  EXPECT_EQ(replayed.exit_code, 0);
  ASSERT_EQ(seen.at("trees").size(), 4u);
  int states = 0, rewards = 0;
  for (const json& tree : seen.at("trees")) {
    states += tree.at("states").get<int>();
    rewards += tree.at("rewards").get<int>();
  }
  EXPECT_GT(states, 4);
  EXPECT_GT(rewards, 4);
}

/// A run directory whose record says something else.
fs::path forged(const fs::path& run, const fs::path& copy, const std::string& observation) {
  fs::create_directories(copy);
  fs::copy(run / "config.yaml", copy / "config.yaml");
  fs::copy(run / "checkpoints", copy / "checkpoints", fs::copy_options::recursive);
  std::vector<tree::Tree> trees = tree::read_trees(tree::shard_path(run, 0));
  for (tree::Tree& tree : trees)
    for (tree::Node& node : tree.nodes)
      if (node.turn == 0) node.observation = observation;
  tree::write_trees(tree::shard_path(copy, 0), trees);
  return copy;
}

TEST_F(TraceSandbox, ReplayNamesTheFirstRealDivergence) {
  const common::TempDir scratch;
  const fs::path copy = forged(run(), scratch.path() / "mini", "never said");
  const auto replayed = trace(copy, "replay", {"0"});
  EXPECT_EQ(replayed.exit_code, common::kExitCheckFailed) << replayed.output;
  EXPECT_THAT(replayed.output, HasSubstr("output of 0/r0/t0\n"));
  EXPECT_THAT(replayed.output, HasSubstr("- never said"));
}

TEST_F(TraceSandbox, CounterfactualSparesThePastAndStaysOutOfTheRun) {
  const tree::FoundNode node = deep_node();
  ASSERT_GE(node.node, 0);
  const auto before = record();
  const auto done =
      trace(run(), "replay", {name_of(node), "--action", "echo given > made", "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const json seen = json::parse(done.output);
  const int turn = node.found.tree.nodes[node.node].turn;
  EXPECT_EQ(seen.at("run_again"), 0);
  EXPECT_EQ(seen.at("saved").at("turns"), turn + 1);
  EXPECT_GT(seen.at("saved").at("seconds"), 0);
  EXPECT_EQ(seen.at("turns")[0].at("command"), "echo given > made");
  EXPECT_TRUE(seen.at("turns")[0].at("injected"));
  EXPECT_EQ(before, record());
  // A run directory of its own, with the ids of the run it branches from.
  const fs::path directory = seen.at("directory").get<std::string>();
  EXPECT_EQ(tree::verify_run(directory).problem, "");
  const tree::Tree branch = tree::find_tree(directory, node.found.tree.index).tree;
  EXPECT_EQ(branch.id, node.found.tree.id);
  EXPECT_EQ(branch.nodes[turn].id, node.found.tree.nodes[node.node].id);
  const std::string first = std::to_string(branch.index) + "/" + branch.nodes[turn + 1].path;
  const auto there = trace(directory, "fork", {first, "--", "cat made"});
  EXPECT_THAT(there.output, HasSubstr("given")) << there.output;
  // A second one at the node is another branch.
  const auto more = trace(run(), "replay", {name_of(node), "--action", "true", "--json"});
  EXPECT_NE(json::parse(more.output).at("turns")[0].at("path"), seen.at("turns")[0].at("path"));
}

TEST_F(TraceSandbox, CounterfactualTakesAnotherPolicyAndAnotherPrompt) {
  const fs::path prompt = scratch_->path() / "prompt.txt";
  common::write_file_atomically(prompt, "count files\n");
  const auto done = trace(run(), "replay",
                          {"task-1", "--policy", (run() / "checkpoints/step_000000").string(),
                           "--prompt", prompt.string(), "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const json seen = json::parse(done.output);
  EXPECT_THAT(seen.at("checkpoint").get<std::string>(), HasSubstr("step_000000"));
  const tree::Tree tree =
      tree::find_tree(fs::path(seen.at("directory").get<std::string>()), 1).tree;
  EXPECT_THAT(tree.prompt, HasSubstr("count files"));
}

/// Its own run, which may lose snapshots.
TEST(TraceSandboxFree, AfterGcTheCommandsAreRunAgainAndBranchesAreLearnedFromWhenToldTo) {
  const common::TempDir scratch;
  const fs::path run = scratch.path() / "mini";
  const std::vector<std::string> options = {"eval.n=0", "trainer.total_steps=1", "seed=5",
                                            "deterministic=true", "env.snapshots=keep-branching"};
  const auto trained = test::run(test::train(scratch.path(), options));
  if (trained.exit_code == common::kExitUnsupported)
    GTEST_SKIP() << "this machine makes no sandboxes: " << trained.output;
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  const auto gc =
      test::run(test::espalier({"trace", "gc", run.string(), "--policy", "keep-none", "--json"}));
  EXPECT_EQ(json::parse(gc.output).at("kept"), 0);
  tree::FoundNode node;
  tree::visit_trees(run, [&](tree::RunTree&& found) {
    const auto children = found.tree.children();
    for (size_t i = 0; i < children.size(); ++i)
      if (!children[i].empty() && found.tree.nodes[i].exit_code != 126)
        node = {found, static_cast<int>(i)};
    return true;
  });
  const std::string name =
      std::to_string(node.found.tree.index) + "/" + node.found.tree.nodes[node.node].path;
  const auto forked =
      test::run(test::espalier({"trace", "fork", run.string(), name, "--json", "--", "true"}));
  EXPECT_EQ(forked.exit_code, 0) << forked.output;
  EXPECT_TRUE(json::parse(forked.output).at("snapshot").is_null());
  ASSERT_EQ(test::run(test::espalier({"trace", "replay", run.string(), name, "--action", "ls"}))
                .exit_code,
            0);
  const auto offline = [&](const std::string& flag) {
    std::vector<std::string> more = options;
    more.insert(more.end(), {"data.trees=" + run.string(), "data.from_step=0", "name=off-" + flag,
                             "data.counterfactuals=" + flag});
    const auto done = test::run(test::train(scratch.path(), more));
    EXPECT_EQ(done.exit_code, 0) << done.output;
    return tree::read_trees(tree::shard_path(scratch.path() / ("off-" + flag), 0));
  };
  const auto without = offline("false"), with = offline("true");
  size_t less = 0, more = 0;
  for (const auto& tree : without) less += tree.nodes.size();
  for (const auto& tree : with) more += tree.nodes.size();
  EXPECT_GT(more, less);
  EXPECT_TRUE(test::newest_weights(run) == test::newest_weights(scratch.path() / "off-false"))
      << "a step from its stored batch gives other weights";
}

}  // namespace
}  // namespace espalier
