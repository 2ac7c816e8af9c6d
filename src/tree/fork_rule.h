// Fork rules: what has been observed so far → branch here, K ways, or not.
//
// Three moments to decide at. Before an action is sampled (decide): all K children are drawn alike.
// After it, before it is run (decide_sampled): the action is one of the siblings, and was seen.
// When all of a tree's episodes are over (look_back): a node is gone back to.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/rng.h"
#include "tree/ledger.h"
#include "tree/trace_tree.h"

namespace espalier::tree {

/// What is known at a turn boundary, before anything of the next action is sampled.
struct ForkContext {
  int turn = 0;
  int forks_in_tree = 0;      // already made in this tree
  int forks_on_path = 0;      // already made on this path
  int turns_since_fork = 0;   // turns since the last branching above; large when none
  int consecutive_forks = 0;  // turns in a row before this one that branched
  double first_entropy = 0;   // of the next action's first-token distribution, nats
  common::RngKey key;         // for rules that draw: derived from the tree path
  std::string task;           // Tree::task and Tree::family
  std::string family;
};

/// How an external model is asked (meta_agent).
struct SelectorOptions {
  std::string model = {};
  int max_tokens = 256;
  bool inject = true;           // let it write the first branch's action
  double price_prompt = 0;      // a million prompt tokens, in the currency of the ledger's cost
  double price_completion = 0;  // a million completion tokens
  /// POSTs a chat-completions request body, returns the answer's. Blocks. Errors: any exception;
  /// the call then counts and picks nothing.
  std::function<std::string(const std::string& body)> ask = {};
};

struct ForkRuleOptions {
  int branches = 2;       // K
  int branches_hard = 0;  // K of tasks whose success rate so far is below 10 %; 0: as branches
  int max_forks_per_tree = 4;
  double quantile = 0.7;           // online_entropy, sampled_entropy, voi: running quantile
  double probability = 0.3;        // uniform
  int min_turns_between = 1;       // turns between consecutive branchings of a path
  double consecutive_penalty = 0;  // online_entropy: share of the entropy lost a branching in a row
  double visit_penalty = 0.5;      // topk: nats a branch that is there already
  double exploration = 0.25;       // ucb: weight of entropy and visits
  SelectorOptions selector = {};   // meta_agent
};

/// More children for a node whose episodes are over.
struct BackFork {
  int node = 0;        // index in the tree given to look_back(): the parent
  int branches = 1;    // children added
  std::string action;  // not empty: what the first of them does instead of sampling ("injected")
  std::string reason;  // for the record
};
struct LookBack {
  std::vector<BackFork> forks;
  Spend spend;  // what deciding has cost
};

/// Thread contract: decide(), decide_sampled() and observe() are called under one lock, in an order
/// that depends on the seed alone in the deterministic mode; they may update running statistics.
/// look_back() may block, may run beside the others and for several trees at once, and updates
/// nothing.
class ForkRule {
 public:
  virtual ~ForkRule() = default;
  virtual std::string name() const = 0;
  /// Decides from what has happened up to the turn: V at the fork is then an unbiased credit for
  /// the prefix.
  virtual bool stopping_time() const = 0;
  /// All siblings are drawn alike, none of them seen before.
  virtual bool exchangeable() const = 0;

  /// Number of children for the next action: 1 = go on, K ≥ 2 = branch.
  virtual int decide(const ForkContext& context) = 0;

  /// Whether decide_sampled() is to be called at all.
  virtual bool decides_after_sampling() const { return false; }
  /// entropies: of the distributions the action's tokens were drawn from.
  virtual int decide_sampled(const ForkContext&, std::span<const float>) { return 1; }

  /// Whether look_back() is to be called at all.
  virtual bool looks_back() const { return false; }
  /// The tree so far, in canonical order, every leaf with its outcome. forks_in_tree: branchings
  /// made. Called again when the branches asked for are over, until it asks for none.
  virtual LookBack look_back(const Tree&, int /*forks_in_tree*/) const { return {}; }

  /// The trees of a finished step, in order of their index: for running estimates.
  virtual void observe(std::span<const Tree>) {}

  /// Running statistics as text, for checkpoints; restore() accepts what save() gave.
  virtual std::string save() const = 0;
  virtual void restore(const std::string& state) = 0;
};

/// Errors: ConfigError naming the value seen and those there are.
std::unique_ptr<ForkRule> make_fork_rule(const std::string& name, const ForkRuleOptions& options);
std::vector<std::string> fork_rule_names();

}  // namespace espalier::tree
