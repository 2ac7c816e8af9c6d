// Rules that go back to finished trees, and the external model one of them asks.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/error.h"
#include "tree/fork_rule.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using nlohmann::json;

/// Episodes of some turns each; entropies and rewards as given. Nodes in canonical order.
struct Grower {
  Tree tree;
  int add(int parent, double entropy, int branch = 0) {
    Node node;
    node.parent = parent;
    node.branch = branch;
    node.turn = parent < 0 ? 0 : tree.nodes[parent].turn + 1;
    node.path = parent < 0 ? root_path(branch)
                           : child_path(tree.nodes[parent].path, node.turn, branch, branch > 0);
    node.first_entropy = static_cast<float>(entropy);
    node.action = {1};
    node.command = "step " + std::to_string(node.turn);
    node.observation = "seen at " + node.path;
    tree.nodes.push_back(node);
    return static_cast<int>(tree.nodes.size()) - 1;
  }
  void end(int node, double reward) {
    tree.nodes[node].reward = reward;
    tree.nodes[node].outcome = Outcome::rewarded;
  }
  int episode(int root, const std::vector<double>& entropies, double reward) {
    int node = -1;
    for (size_t t = 0; t < entropies.size(); ++t) node = add(node, entropies[t], t == 0 ? root : 0);
    end(node, reward);
    return node;
  }
};

/// r0 fails: nodes 0 – 3, decisions behind 0, 1, 2 of entropy .2, .9, .4. r1 succeeds: 4 – 6, .8,
/// .1.
Tree two_episodes() {
  Grower grower;
  grower.tree.prompt = "find it";
  grower.episode(0, {5, 0.2, 0.9, 0.4}, 0);
  grower.episode(1, {5, 0.8, 0.1}, 1);
  return grower.tree;
}

std::vector<int> nodes_of(const LookBack& back) {
  std::vector<int> nodes;
  for (const BackFork& fork : back.forks) nodes.push_back(fork.node);
  return nodes;
}

TEST(TopK, TakesTheMostUncertainInRounds) {
  const auto rule = make_fork_rule("topk", {.branches = 3, .max_forks_per_tree = 4});
  EXPECT_TRUE(rule->looks_back());
  const LookBack first = rule->look_back(two_episodes(), 0);
  EXPECT_EQ(nodes_of(first), (std::vector<int>{1, 4})) << "turn 0 is no candidate";
  EXPECT_EQ(first.forks[0].branches, 2);
  EXPECT_EQ(nodes_of(rule->look_back(two_episodes(), 3)), (std::vector<int>{1}));
  EXPECT_TRUE(rule->look_back(two_episodes(), 4).forks.empty());
}

TEST(TopK, EveryChildThatIsThereCosts) {
  Grower grower;
  const int root = grower.add(-1, 5);
  for (int b = 0; b < 3; ++b) grower.end(grower.add(root, 0.9, b), 0);
  grower.episode(1, {5, 0.3}, 1);
  const auto free = make_fork_rule("topk", {.max_forks_per_tree = 2, .visit_penalty = 0});
  const auto costly = make_fork_rule("topk", {.max_forks_per_tree = 2, .visit_penalty = 0.5});
  EXPECT_EQ(nodes_of(free->look_back(grower.tree, 0)), (std::vector<int>{0}));
  EXPECT_EQ(nodes_of(costly->look_back(grower.tree, 0)), (std::vector<int>{4})) << ".9 − 2·.5 < .3";
}

TEST(Ucb, GoesWhereTheOutcomeIsOpen) {
  Grower grower;  // r0 splits into success and failure; r1 fails twice below a more uncertain turn
  const int open = grower.add(-1, 5);
  grower.end(grower.add(open, 0.5, 0), 1);
  grower.end(grower.add(open, 0.5, 1), 0);
  const int closed = grower.add(-1, 5, 1);
  grower.end(grower.add(closed, 0.6, 0), 0);
  grower.end(grower.add(closed, 0.6, 1), 0);
  const auto rule = make_fork_rule("ucb", {.max_forks_per_tree = 4, .exploration = 0.01});
  EXPECT_EQ(nodes_of(rule->look_back(grower.tree, 0)), (std::vector<int>{open}));
  const auto curious = make_fork_rule("ucb", {.max_forks_per_tree = 4, .exploration = 10});
  EXPECT_EQ(nodes_of(curious->look_back(grower.tree, 0)), (std::vector<int>{closed}));
}

TEST(Ucb, UniformOutcomesMayUseTheWholeBudget) {
  const auto rule = make_fork_rule("ucb", {.max_forks_per_tree = 4});
  Tree mixed = two_episodes(), alike = mixed;
  alike.nodes[6].reward = 0;
  EXPECT_EQ(rule->look_back(mixed, 1).forks.size(), 1u);
  EXPECT_TRUE(rule->look_back(mixed, 2).forks.empty());
  EXPECT_EQ(rule->look_back(alike, 3).forks.size(), 1u);
  EXPECT_TRUE(rule->look_back(alike, 4).forks.empty());
}

TEST(Pivot, ForksFailuresWhereTheyWereMostUncertain) {
  const auto rule = make_fork_rule("pivot", {});
  EXPECT_EQ(nodes_of(rule->look_back(two_episodes(), 0)), (std::vector<int>{1}));
  EXPECT_TRUE(rule->look_back(two_episodes(), 4).forks.empty());
}

TEST(Pivot, LooksOnlyBehindTheLastSuccess) {
  Grower grower;
  const int root = grower.add(-1, 5);
  const int fork = grower.add(root, 0.9);
  grower.end(grower.add(fork, 0.7, 0), 1);
  int bad = grower.add(fork, 0.7, 1);
  const int turned = bad;
  bad = grower.add(bad, 0.3);
  grower.end(grower.add(bad, 0.2), 0);
  const auto rule = make_fork_rule("pivot", {});
  EXPECT_EQ(nodes_of(rule->look_back(grower.tree, 1)), (std::vector<int>{turned}))
      << ".9 and .7 lie before the success's branch: not candidates";
}

TEST(BackRules, NothingToGoBackTo) {
  SelectorOptions selector;
  selector.ask = [](const std::string&) -> std::string { throw std::runtime_error("not asked"); };
  for (const char* name : {"topk", "ucb", "pivot", "meta_agent"}) {
    const auto rule = make_fork_rule(name, {.selector = selector});
    EXPECT_FALSE(rule->stopping_time()) << name;
    EXPECT_FALSE(rule->exchangeable()) << name;
    EXPECT_TRUE(rule->looks_back()) << name;
    EXPECT_TRUE(rule->look_back({}, 0).forks.empty()) << name;
    Grower single;  // turn 0 alone
    single.episode(0, {1}, 0);
    EXPECT_TRUE(rule->look_back(single.tree, 0).forks.empty()) << name;
    for (uint64_t number = 0; number < 200; ++number) {  // any tree, failed leaves and all
      const Tree tree = testing::random_tree(number, {.failure_probability = 0.5});
      for (const BackFork& fork : rule->look_back(tree, static_cast<int>(number % 5)).forks) {
        ASSERT_GE(fork.node, 0);
        ASSERT_LT(fork.node, static_cast<int>(tree.nodes.size()));
        ASSERT_FALSE(tree.is_leaf(fork.node));
        ASSERT_GE(fork.branches, 1);
      }
    }
    rule->restore(rule->save());
  }
}

/// A model that answers as told and remembers what it was asked.
struct Model {
  std::vector<json> asked;
  std::string answer;
  SelectorOptions options() {
    SelectorOptions selector;
    selector.model = "judge";
    selector.price_prompt = 2;
    selector.price_completion = 10;
    selector.ask = [this](const std::string& body) {
      asked.push_back(json::parse(body));
      return json{{"choices", {{{"message", {{"role", "assistant"}, {"content", answer}}}}}},
                  {"usage", {{"prompt_tokens", 1000}, {"completion_tokens", 100}}}}
          .dump();
    };
    return selector;
  }
};

TEST(MetaAgent, AsksAboutFailuresAndInjects) {
  Model model;
  model.answer =
      "Surely:\n```json\n{\"turn\": 2, \"action\": \"ls -a\", \"reason\": \"hidden\"}```";
  const auto rule = make_fork_rule("meta_agent", {.branches = 3, .selector = model.options()});
  const LookBack back = rule->look_back(two_episodes(), 0);
  ASSERT_EQ(back.forks.size(), 1u);
  EXPECT_EQ(back.forks[0].node, 1) << "turn 2 is done again behind turn 1";
  EXPECT_EQ(back.forks[0].branches, 2);
  EXPECT_EQ(back.forks[0].action, "ls -a");
  EXPECT_EQ(back.forks[0].reason, "hidden");
  EXPECT_EQ(back.spend.selector_calls, 1u) << "the success is not asked about";
  EXPECT_EQ(back.spend.selector_tokens, 1100u);
  EXPECT_DOUBLE_EQ(back.spend.selector_cost, 0.003);
  EXPECT_EQ(back.spend.selector_failures, 0u);
  ASSERT_EQ(model.asked.size(), 1u);
  EXPECT_EQ(model.asked[0]["model"], "judge");
  const auto shown = model.asked[0]["messages"][1]["content"].get<std::string>();
  for (const char* part : {"find it", "Turn 3", "$ step 3", "seen at r0/t3", "Reward: 0"})
    EXPECT_NE(shown.find(part), std::string::npos) << part;
  EXPECT_TRUE(rule->look_back(two_episodes(), 1).forks.empty()) << "asked once a tree";
  EXPECT_EQ(model.asked.size(), 1u);
}

TEST(MetaAgent, MayBeKeptFromActing) {
  Model model;
  model.answer = R"({"turn": 1, "action": "rm -r x"})";
  SelectorOptions selector = model.options();
  selector.inject = false;
  const LookBack back =
      make_fork_rule("meta_agent", {.selector = selector})->look_back(two_episodes(), 0);
  ASSERT_EQ(back.forks.size(), 1u);
  EXPECT_EQ(back.forks[0].action, "");
}

TEST(MetaAgent, BadAnswersPickNothingAndAreCounted) {
  for (const char* answer : {"no idea", "{\"turn\": 0}", "{\"turn\": 4}", "{\"turn\": \"two\"}",
                             "{}", "} {", "{\"turn\": -3}"}) {
    Model model;
    model.answer = answer;
    const LookBack back =
        make_fork_rule("meta_agent", {.selector = model.options()})->look_back(two_episodes(), 0);
    EXPECT_TRUE(back.forks.empty()) << answer;
    EXPECT_EQ(back.spend.selector_failures, 1u) << answer;
    EXPECT_EQ(back.spend.selector_tokens, 1100u) << answer;
  }
  Model content;
  content.answer = R"({"turn": null})";
  const LookBack none =
      make_fork_rule("meta_agent", {.selector = content.options()})->look_back(two_episodes(), 0);
  EXPECT_TRUE(none.forks.empty());
  EXPECT_EQ(none.spend.selector_failures, 0u) << "nothing to blame is an answer";
  SelectorOptions down;
  down.ask = [](const std::string&) -> std::string { throw std::runtime_error("refused"); };
  const LookBack lost =
      make_fork_rule("meta_agent", {.selector = down})->look_back(two_episodes(), 0);
  EXPECT_TRUE(lost.forks.empty());
  EXPECT_EQ(lost.spend.selector_calls, 1u);
  EXPECT_EQ(lost.spend.selector_failures, 1u);
}

TEST(MetaAgent, NeedsAModel) {
  EXPECT_THROW(make_fork_rule("meta_agent", {}), common::ConfigError);
}

}  // namespace
}  // namespace espalier::tree
