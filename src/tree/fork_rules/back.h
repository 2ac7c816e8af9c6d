// What rules that look back have in common: the decisions of a finished tree that could be made
// again.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tree/fork_rule.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {

/// A rule that only looks back: it has seen how the episodes ended, and remembers nothing of them.
class BackRule : public ForkRule {
 public:
  BackRule(std::string name, ForkRuleOptions options)
      : options_(std::move(options)), name_(std::move(name)) {}
  std::string name() const override { return name_; }
  bool stopping_time() const override { return false; }
  bool exchangeable() const override { return false; }
  int decide(const ForkContext&) override { return 1; }
  bool looks_back() const override { return true; }
  std::string save() const override { return ""; }
  void restore(const std::string& state) override { expect_empty_state(name_, state); }

 protected:
  const ForkRuleOptions options_;

 private:
  const std::string name_;
};

/// A turn boundary behind `node` where an action was sampled.
struct Decision {
  int node = 0;            // the parent of what was sampled
  double entropy = 0;      // of the first token there
  int children = 0;        // that are there already
  int leaves = 0;          // with a reward, below node
  double mean_reward = 0;  // of them
};

/// In canonical order. A boundary whose children all did nothing is none.
std::vector<Decision> decisions(const Tree& tree);

/// reward below ½: what pivot and meta_agent call a failure.
bool failed(const Node& leaf);

/// Whether all leaves with a reward have the same.
bool uniform_outcome(const Tree& tree);

}  // namespace espalier::tree
