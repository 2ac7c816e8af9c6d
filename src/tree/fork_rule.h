// Fork rules: what has been observed so far → branch here, K ways, or not.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/rng.h"

namespace espalier::tree {

/// What is known at a turn boundary, before anything of the next action is sampled.
struct ForkContext {
  int turn = 0;
  int forks_in_tree = 0;     // already made in this tree
  int forks_on_path = 0;     // already made on this path
  int turns_since_fork = 0;  // turns since the last branching above; large when none
  double first_entropy = 0;  // of the next action's first-token distribution, nats
  common::RngKey key;        // for rules that draw: derived from the tree path
};

struct ForkRuleOptions {
  int branches = 2;  // K
  int max_forks_per_tree = 4;
  double quantile = 0.7;      // online_entropy: running quantile of the first-token entropy
  double probability = 0.3;   // uniform
  int min_turns_between = 1;  // turns between consecutive branchings of a path
};

/// Thread contract: decide() is called under one lock, in an order that depends on the seed alone
/// in the deterministic mode; it may update running statistics. Siblings must be exchangeable: a
/// rule decides from what is known before the action is sampled, then all K children are drawn
/// alike.
class ForkRule {
 public:
  virtual ~ForkRule() = default;
  virtual std::string name() const = 0;
  /// Decides from the past only: V at the fork is then an unbiased credit for the prefix.
  virtual bool stopping_time() const = 0;
  virtual bool exchangeable() const = 0;
  /// Number of children for the next action: 1 = go on, K ≥ 2 = branch.
  virtual int decide(const ForkContext& context) = 0;
  /// Running statistics as text, for checkpoints; restore() accepts what save() gave.
  virtual std::string save() const = 0;
  virtual void restore(const std::string& state) = 0;
};

/// "none", "uniform", "online_entropy". Errors: ConfigError naming the value seen and the names
/// there are.
std::unique_ptr<ForkRule> make_fork_rule(const std::string& name, const ForkRuleOptions& options);
std::vector<std::string> fork_rule_names();

}  // namespace espalier::tree
