#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "app/process.h"
#include "common/error.h"
#include "common/files.h"
#include "tree/advantage.h"
#include "tree/random_tree.h"
#include "tree/store.h"

namespace espalier {
namespace {

/// A run of four stored trees.
class TraceCommand : public ::testing::Test {
 protected:
  TraceCommand() {
    for (uint64_t number = 0; number < 4; ++number) {
      trees_.push_back(tree::testing::random_tree(number));
      tree::make_estimator("tree_loo", {})->estimate(trees_.back());
    }
    tree::write_trees(tree::shard_path(dir_.path() / "run", 0), trees_);
  }

  test::Finished trace(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "trace");
    arguments.insert(arguments.begin() + 2, (dir_.path() / "run").string());
    return test::Process(test::espalier(arguments), dir_.path() / "output", dir_.path()).wait(60);
  }

  common::TempDir dir_;
  std::vector<tree::Tree> trees_;
};

TEST_F(TraceCommand, LogsTheRunAndOneTree) {
  const auto log = trace({"log"});
  EXPECT_EQ(log.exit_code, common::kExitOk) << log.output;
  EXPECT_NE(log.output.find(trees_[3].task), std::string::npos) << log.output;
  EXPECT_EQ(log.output.find('\x1b'), std::string::npos) << "colours only on a terminal";
  const auto drawn = trace({"log", "--tree", "3"});
  EXPECT_EQ(drawn.exit_code, common::kExitOk);
  EXPECT_NE(drawn.output.find("└─ r"), std::string::npos) << drawn.output;
  const auto json = nlohmann::json::parse(trace({"log", "--tree", "3", "--json"}).output);
  EXPECT_EQ(json.at("nodes").size(), trees_[3].nodes.size());
}

TEST_F(TraceCommand, ShowsANodeByIdAndByPlace) {
  const tree::Node& node = trees_[2].nodes.back();
  for (const std::string& name : {node.id.hex().substr(0, 12), "2/" + node.path}) {
    const auto shown = trace({"show", name, "--tokens"});
    EXPECT_EQ(shown.exit_code, common::kExitOk);
    EXPECT_NE(shown.output.find(node.id.hex()), std::string::npos) << shown.output;
    EXPECT_NE(shown.output.find("log-prob"), std::string::npos) << shown.output;
  }
  const auto json = nlohmann::json::parse(trace({"show", "2/" + node.path, "--json"}).output);
  EXPECT_EQ(json.at("command"), node.command);
  EXPECT_FALSE(json.contains("action"));
}

TEST_F(TraceCommand, WrongNamesAreUsageErrors) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"log", "--tree", "99"}, {"show", "3/r77/t5"}, {"show", "zz"}}) {
    const auto refused = trace(arguments);
    EXPECT_EQ(refused.exit_code, common::kExitUsage) << refused.output;
    EXPECT_NE(refused.output.find("espalier: "), std::string::npos) << refused.output;
  }
  std::filesystem::remove_all(dir_.path() / "run");
  const auto none = trace({"log"});
  EXPECT_EQ(none.exit_code, common::kExitUsage);
  EXPECT_NE(none.output.find("no such directory"), std::string::npos) << none.output;
}

}  // namespace
}  // namespace espalier
