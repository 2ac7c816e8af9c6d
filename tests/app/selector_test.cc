// The fork rule meta_agent against a scripted OpenAI-compatible server.
#include "app/selector.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "app/algorithm.h"
#include "common/error.h"
#include "common/http_server.h"

namespace espalier::app {
namespace {

using espalier::testing::each_request;
using espalier::testing::HttpServer;
using espalier::testing::ServedConnection;
using espalier::testing::ServedRequest;
using nlohmann::json;

common::Config config_for(const HttpServer& server) {
  common::Config config;
  config.algorithm.tree.fork_rule = "meta_agent";
  config.algorithm.tree.branches = 3;
  config.algorithm.tree.selector.url = "unix:" + server.socket();
  config.algorithm.tree.selector.model = "judge";
  config.algorithm.tree.selector.price_prompt = 1;
  return config;
}

/// One episode of three turns that failed.
tree::Tree failure() {
  tree::Tree tree;
  tree.prompt = "find it";
  for (int turn = 0; turn < 3; ++turn) {
    tree::Node node;
    node.parent = turn - 1;
    node.turn = turn;
    node.action = {1};
    node.command = "step " + std::to_string(turn);
    tree.nodes.push_back(node);
  }
  tree.nodes.back().reward = 0;
  return tree;
}

TEST(Selector, AsksTheServerAndCountsWhatItCost) {
  std::vector<ServedRequest> asked;
  const HttpServer server(each_request([&](ServedConnection& to, const ServedRequest& request) {
    asked.push_back(request);
    to.answer(200,
              json{{"choices", {{{"message", {{"content", R"({"turn": 2, "action": "ls -a"})"}}}}}},
                   {"usage", {{"prompt_tokens", 300}, {"completion_tokens", 20}}}}
                  .dump());
  }));
  const auto rule = fork_rule_of(config_for(server));
  const tree::LookBack back = rule->look_back(failure(), 0);
  ASSERT_EQ(back.forks.size(), 1u);
  EXPECT_EQ(back.forks[0].node, 1);
  EXPECT_EQ(back.forks[0].branches, 2);
  EXPECT_EQ(back.forks[0].action, "ls -a");
  EXPECT_EQ(back.spend.selector_tokens, 320u);
  EXPECT_DOUBLE_EQ(back.spend.selector_cost, 3e-4);
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].line, "POST /v1/chat/completions HTTP/1.1");
  EXPECT_EQ(json::parse(asked[0].body)["model"], "judge");
}

TEST(Selector, AServerInTroubleCostsACallAndNothingElse) {
  const HttpServer server(each_request(
      [](ServedConnection& to, const ServedRequest&) { to.answer(500, "out of memory"); }));
  const auto rule = fork_rule_of(config_for(server));
  const tree::LookBack back = rule->look_back(failure(), 0);
  EXPECT_TRUE(back.forks.empty());
  EXPECT_EQ(back.spend.selector_calls, 1u);
  EXPECT_EQ(back.spend.selector_failures, 1u);
}

TEST(Selector, NobodyThere) {
  common::Config config;
  config.algorithm.tree.fork_rule = "meta_agent";
  config.algorithm.tree.selector.url = "unix:/nonexistent/socket";
  const tree::LookBack back = fork_rule_of(config)->look_back(failure(), 0);
  EXPECT_EQ(back.spend.selector_failures, 1u);
  config.algorithm.tree.selector.api_key_env = "ESPALIER_NO_SUCH_VARIABLE";
  EXPECT_THROW(fork_rule_of(config), common::ConfigError);
}

}  // namespace
}  // namespace espalier::app
