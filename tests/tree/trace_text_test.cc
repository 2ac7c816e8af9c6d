#include "tree/trace_text.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tree/advantage.h"
#include "tree/random_tree.h"
#include "tree/trace_json.h"

namespace espalier::tree {
namespace {

Node turn(int parent, int branch, int depth, const std::string& command,
          const std::string& output) {
  Node node;
  node.parent = parent;
  node.branch = branch;
  node.turn = depth;
  node.command = command;
  node.observation = output;
  return node;
}

/// r0: two turns, then a fork in two; r1: one turn whose sandbox was lost; r2: one turn.
RunTree example() {
  RunTree run_tree;
  Tree& tree = run_tree.tree;
  tree.index = 12;
  tree.step = 3;
  tree.task = "nursery:chain/17/d2";
  tree.prompt = "follow quartz\n";
  tree.nodes = {turn(-1, 0, 0, "cat quartz", "goto cedar\nmore\n"),
                turn(0, 0, 1, "cat cedar", "got river"),
                turn(1, 0, 2, "echo river > out", ""),
                turn(1, 1, 2, "echo cedar > out", ""),
                turn(-1, 1, 0, "sleep 99", ""),
                turn(-1, 2, 0, "false", "\x1b[2Jgone")};
  tree.nodes[1].fork_rule = "online_entropy";
  for (int leaf : {2, 3, 5}) tree.nodes[leaf].outcome = Outcome::rewarded;
  tree.nodes[2].reward = 1;
  tree.nodes[3].reward = tree.nodes[5].reward = 0;
  tree.nodes[4].outcome = Outcome::infra_failed;
  tree.nodes[4].failure = "sandbox lost";
  tree.nodes[4].timed_out = true;
  tree.nodes[5].exit_code = 1;
  make_estimator("tree_loo", {})->estimate(tree);
  return run_tree;
}

TEST(TraceText, DrawsATree) {
  EXPECT_EQ(draw_tree(example(), {}),
            "  tree    step  roots  forks  leaves  reward  task; outcomes\n"
            "    12       3      3      1       4   0.333  nursery:chain/17/d2; rewarded 3"
            " infra_failed 1\n"
            "follow quartz\n"
            "├─ r0 t0  +0.500  cat quartz → goto cedar\n"
            "│     t1  +0.500  cat cedar → got river ⑂ online_entropy\n"
            "│  ├─ b0 t2  +1.000  echo river > out  reward 1\n"
            "│  └─ b1 t2  -1.000  echo cedar > out  reward 0\n"
            "├─ r1 t0       ·  sleep 99 [timed out]  infra_failed: sandbox lost\n"
            "└─ r2 t0  -0.500  false → \xef\xbf\xbd[2Jgone [exit 1]  reward 0\n");
}

TEST(TraceText, ColoursOnlyWhenAsked) {
  EXPECT_EQ(draw_tree(example(), {}).find('\x1b'), std::string::npos);
  TextOptions coloured;
  coloured.colour = true;
  EXPECT_NE(draw_tree(example(), coloured).find("\x1b[32m"), std::string::npos);
}

TEST(TraceText, UnfinishedTreesShowNoAdvantages) {
  RunTree tree = example();
  tree.state = TreeState::unfinished;
  tree.tree.nodes[5].outcome = Outcome::none;
  tree.tree.nodes[5].reward.reset();
  const std::string drawn = draw_tree(tree, {});
  EXPECT_EQ(drawn.find("+0.500"), std::string::npos);
  EXPECT_NE(drawn.find("not over"), std::string::npos);
  EXPECT_NE(drawn.find("(unfinished)"), std::string::npos);
  EXPECT_EQ(node_text(tree, 0, {}).find("advantage"), std::string::npos);
}

TEST(TraceText, ShowsANodeWithItsTokens) {
  RunTree tree{testing::random_tree(3), TreeState::stored};
  Node& node = tree.tree.nodes[0];
  node.observation = "one\ntwo";
  node.action = {65, 10};
  node.log_probs = {-0.25f, -1.5f};
  node.entropies = {0.5f, 0.75f};
  node.loss_mask = {1, 0};
  TextOptions options;
  EXPECT_EQ(node_text(tree, 0, options).find("log-prob"), std::string::npos);
  options.tokens = true;
  options.token_text = [](Token token) { return std::string(1, static_cast<char>(token)); };
  const std::string text = node_text(tree, 0, options);
  for (const char* part :
       {"output:\n  one\n  two\n", "    0      65    -0.2500     0.5000     1  'A'\n",
        "    1      10    -1.5000     0.7500     0  '\\n'\n"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  EXPECT_NE(text.find(node.id.hex()), std::string::npos);
}

TEST(TraceText, PrintableStopsControlsAndBrokenUtf8) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(printable("plain\n\ttext"), "plain\n\ttext");
  EXPECT_EQ(printable("\x1b]0;title\x07"), r + "]0;title" + r);
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            r + "31m");
  EXPECT_EQ(printable("é→𝛼"), "é→𝛼");
  EXPECT_EQ(printable("\xff\xc3"), r + r);
  EXPECT_EQ(printable("\xc0\xaf"), r + r);                  // overlong
  EXPECT_EQ(printable("\xed\xa0\x80"), r + r + r);          // surrogate
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), r + r + r + r);  // beyond U+10FFFF
  EXPECT_EQ(printable("\x7f"), r);
}

TEST(TraceText, FirstLineIsCutByCharacters) {
  EXPECT_EQ(first_line("\n\nabc\ndef", 10), "abc");
  EXPECT_EQ(first_line("", 10), "");
  EXPECT_EQ(first_line("äöüß", 4), "äöüß");
  EXPECT_EQ(first_line("äöüßx", 4), "äöü…");
}

TEST(TraceJson, HoldsTheTree) {
  const Json tree = Json::parse(dump(tree_json(example())));
  EXPECT_EQ(tree["index"], 12);
  EXPECT_EQ(tree["outcomes"]["rewarded"], 3);
  EXPECT_NEAR(tree["mean_reward"].get<double>(), 1.0 / 3, 1e-12);
  ASSERT_EQ(tree["nodes"].size(), 6u);
  EXPECT_EQ(tree["nodes"][2]["reward"], 1);
  EXPECT_TRUE(tree["nodes"][4]["reward"].is_null());
  EXPECT_EQ(tree["nodes"][3]["estimate"]["advantage"], -1);
  EXPECT_FALSE(tree["nodes"][0].contains("action"));

  RunTree raw{testing::random_tree(3), TreeState::unfinished};
  const Json node = Json::parse(dump(node_json(raw, 0, true)));
  EXPECT_EQ(node["action"].get<std::vector<Token>>(), raw.tree.nodes[0].action);
  EXPECT_TRUE(node["estimate"].is_null());
  EXPECT_NE(node["observation"].get<std::string>().find("\xef\xbf\xbd raw"), std::string::npos);
}

}  // namespace
}  // namespace espalier::tree
