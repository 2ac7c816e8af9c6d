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

TEST_F(TraceCommand, NodesHaveLongNamesAndTreesHaveIds) {
  const tree::Node& node = trees_[2].nodes.back();
  const auto shown = trace({"show", "task-2/" + node.path, "--json"});
  EXPECT_EQ(nlohmann::json::parse(shown.output).at("id"), node.id.full_hex());
  const auto log = trace({"log", "--tree", trees_[1].id.hex(), "--json"});
  EXPECT_EQ(nlohmann::json::parse(log.output).at("task"), trees_[1].task) << log.output;
}

TEST_F(TraceCommand, DiffNamesTheAncestorAndWhatEachDid) {
  const tree::Tree& tree = trees_[3];
  const std::string a = "3/" + tree.nodes.front().path, b = "3/" + tree.nodes.back().path;
  const auto json = nlohmann::json::parse(trace({"diff", a, b, "--json"}).output);
  EXPECT_TRUE(json.at("same_tree"));
  size_t depth = 0;
  for (int at = static_cast<int>(tree.nodes.size()) - 1; at > 0; at = tree.nodes[at].parent)
    ++depth;
  EXPECT_EQ(json.at("only_b").size(), depth);
  const auto text = trace({"diff", a, b});
  EXPECT_EQ(text.exit_code, common::kExitOk);
  EXPECT_NE(text.output.find("common ancestor"), std::string::npos) << text.output;
  EXPECT_NE(text.output.find(tree.nodes.back().command), std::string::npos) << text.output;
}

TEST_F(TraceCommand, VerifySaysWhetherAllIsAsWritten) {
  const auto good = trace({"verify", "--json"});
  EXPECT_EQ(good.exit_code, common::kExitOk) << good.output;
  EXPECT_EQ(nlohmann::json::parse(good.output).at("trees"), 4);
  const auto shard = tree::shard_path(dir_.path() / "run", 0);
  std::string bytes = common::read_file(shard);
  for (size_t at = bytes.size() / 2; at < bytes.size() / 2 + 64; ++at) bytes[at] ^= 1;
  common::write_file_atomically(shard, bytes);
  const auto bad = trace({"verify"});
  EXPECT_EQ(bad.exit_code, common::kExitCheckFailed) << bad.output;
  EXPECT_NE(bad.output.find("step_000000.h5"), std::string::npos) << bad.output;
}

TEST_F(TraceCommand, ExportsEveryFormat) {
  const auto jsonl = trace({"export", "--tree", "2"});
  const auto tree = nlohmann::json::parse(jsonl.output);
  EXPECT_EQ(tree.at("nodes").size(), trees_[2].nodes.size());
  EXPECT_EQ(tree.at("nodes")[0].at("log_probs").size(), trees_[2].nodes[0].action.size());
  const auto csv = trace({"export", "--format", "csv"});
  size_t rows = 0, nodes = 0;
  for (char c : csv.output) rows += c == '\r';
  for (const auto& one : trees_) nodes += one.nodes.size();
  EXPECT_EQ(rows, nodes + 1);
  const auto directory = dir_.path() / "jobs";
  EXPECT_EQ(trace({"export", "--format", "atif", "-o", directory.string()}).exit_code, 0);
  size_t files = 0, leaves = 0;
  for (const auto& one : trees_) leaves += one.leaves().size();
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const auto atif =
        nlohmann::json::parse(common::read_file(entry.path() / "agent/trajectory.json"));
    EXPECT_EQ(atif.at("schema_version"), "ATIF-v1.7");
    for (size_t i = 0; i < atif.at("steps").size(); ++i)
      EXPECT_EQ(atif.at("steps")[i].at("step_id"), i + 1);
    ++files;
  }
  EXPECT_EQ(files, leaves);
}

TEST_F(TraceCommand, GcWithoutSnapshotsFreesNothing) {
  const auto json = nlohmann::json::parse(trace({"gc", "--policy", "keep-none", "--json"}).output);
  EXPECT_EQ(json.at("bytes_freed"), 0);
  EXPECT_EQ(trace({"gc"}).exit_code, common::kExitUsage);
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
