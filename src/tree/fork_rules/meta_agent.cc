// meta_agent: an external model reads failed episodes and names the turn to go back to.
//
// For each failed root episode, while the tree's budget of forks lasts, one chat-completions
// request with the transcript. The answer's text must hold a JSON object:
//
//   {"turn": 3, "action": "ls -a", "reason": "…"}     do turn 3 again; action may be left out
//   {"turn": null}                                      nothing here is worth it
//
// With an action (and selector.inject) the first child added does that instead of sampling: its
// tokens are no sample of the policy, so they are loss-masked and the node is marked injected; the
// other K − 2 sample. An answer that is not understood, names no turn of the episode, or fails to
// come costs its tokens and picks nothing. Asked once a tree. Chosen by outcome: no stopping time.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "tree/fork_rules/back.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

constexpr size_t kMaxOutput = 2000;  // bytes of an output that are shown
constexpr const char* kTask =
    "You supervise an agent that works in a shell. Below is an episode that failed. Name the one "
    "turn at which another action would most likely have led to success. Answer with a JSON object "
    "only: {\"turn\": N, \"action\": \"a better command for turn N, or leave this key out\", "
    "\"reason\": \"…\"}, or {\"turn\": null} when no single turn is to blame. Turn 0 cannot be "
    "chosen.";

using nlohmann::json;

std::string text_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string transcript(const Tree& tree, const std::vector<int>& path) {
  std::string text = "Task: " + tree.prompt + "\n";
  for (int n : path) {
    const Node& node = tree.nodes[static_cast<size_t>(n)];
    text += "\nTurn " + std::to_string(node.turn) + "\n$ " + node.command + "\n" +
            node.observation.substr(0, kMaxOutput);
    if (node.observation.size() > kMaxOutput) text += "…";
    if (node.exit_code != 0) text += "\n[exit code " + std::to_string(node.exit_code) + "]";
    text += "\n";
  }
  return text +
         "\nReward: " + std::to_string(*tree.nodes[static_cast<size_t>(path.back())].reward) + "\n";
}

/// The object an answer's text holds, whatever is written around it.
json object_in(const std::string& content) {
  const size_t from = content.find('{'), to = content.rfind('}');
  if (from == std::string::npos || to == std::string::npos || to < from) return nullptr;
  return json::parse(content.substr(from, to - from + 1), nullptr, false);
}

class MetaAgent final : public BackRule {
 public:
  explicit MetaAgent(const ForkRuleOptions& options) : BackRule("meta_agent", options) {
    if (!options_.selector.ask)
      throw common::ConfigError(
          "fork rule meta_agent: no model to ask; set algorithm.tree.selector.url to an "
          "OpenAI-compatible server");
  }

  LookBack look_back(const Tree& tree, int forks_in_tree) const override {
    LookBack result;
    if (forks_in_tree > 0 || options_.branches < 2) return result;
    for (int leaf : tree.leaves()) {
      if (static_cast<int>(result.forks.size()) >= options_.max_forks_per_tree) break;
      const std::vector<int> path = path_to(tree, leaf);
      if (!failed(tree.nodes[static_cast<size_t>(leaf)]) || path.size() < 2) continue;
      ask(tree, path, result);
    }
    return result;
  }

 private:
  static std::vector<int> path_to(const Tree& tree, int leaf) {
    std::vector<int> path;
    for (int n = leaf; n >= 0; n = tree.nodes[static_cast<size_t>(n)].parent) path.push_back(n);
    std::reverse(path.begin(), path.end());
    return path;
  }

  void ask(const Tree& tree, const std::vector<int>& path, LookBack& result) const {
    const SelectorOptions& selector = options_.selector;
    const json request = {
        {"model", selector.model},
        {"max_tokens", selector.max_tokens},
        {"temperature", 0},
        {"messages", json::array({{{"role", "system"}, {"content", kTask}},
                                  {{"role", "user"}, {"content", transcript(tree, path)}}})}};
    result.spend.selector_calls += 1;
    json answer;
    try {
      answer = json::parse(selector.ask(text_of(request)));
      count(answer.value("usage", json::object()), result.spend);
      const json choice =
          object_in(answer.at("choices").at(0).at("message").at("content").get<std::string>());
      pick(choice, tree, path, result);
    } catch (const std::exception&) {
      result.spend.selector_failures += 1;
    }
  }

  void count(const json& usage, Spend& spend) const {
    const auto prompt = usage.value("prompt_tokens", uint64_t{0});
    const auto completion = usage.value("completion_tokens", uint64_t{0});
    spend.selector_tokens += prompt + completion;
    spend.selector_cost +=
        1e-6 * (static_cast<double>(prompt) * options_.selector.price_prompt +
                static_cast<double>(completion) * options_.selector.price_completion);
  }

  void pick(const json& choice, const Tree& tree, const std::vector<int>& path,
            LookBack& result) const {
    const auto& turn = choice.at("turn");
    if (turn.is_null()) return;
    const int at = turn.get<int>();
    if (at < 1 || at > tree.nodes[static_cast<size_t>(path.back())].turn)
      throw common::PolicyError("turn " + std::to_string(at) + " is none of the episode's");
    BackFork fork{path[static_cast<size_t>(at - 1)], options_.branches - 1, "",
                  choice.value("reason", "")};
    for (const BackFork& other : result.forks)
      if (other.node == fork.node) return;
    if (options_.selector.inject && choice.contains("action") && choice["action"].is_string())
      fork.action = choice["action"].get<std::string>();
    result.forks.push_back(std::move(fork));
  }
};

}  // namespace

std::unique_ptr<ForkRule> make_meta_agent_rule(const ForkRuleOptions& options) {
  return std::make_unique<MetaAgent>(options);
}

}  // namespace espalier::tree
