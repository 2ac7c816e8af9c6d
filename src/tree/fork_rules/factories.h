// The rules' factories, one of each line of registry.inc, and the budget they share.
#pragma once

#include <memory>

#include "tree/fork_rule.h"
#include "tree/fork_rules/running.h"

namespace espalier::tree {

#define ESPALIER_FORK_RULE(name) \
  std::unique_ptr<ForkRule> make_##name##_rule(const ForkRuleOptions& options);
#include "tree/fork_rules/registry.inc"
#undef ESPALIER_FORK_RULE

/// Whether a branching is allowed here at all: not at turn 0 (the roots branch there already),
/// within the tree's budget, and far enough from the last one on the path.
inline bool may_fork(const ForkContext& context, const ForkRuleOptions& options) {
  return context.turn > 0 && options.branches > 1 &&
         context.forks_in_tree < options.max_forks_per_tree &&
         context.turns_since_fork >= options.min_turns_between;
}

/// K of a branching: more where the task has hardly ever been solved.
inline int children_for(const ForkContext& context, const ForkRuleOptions& options,
                        const SuccessRates& success) {
  constexpr double kHard = 0.1;
  const bool hard = options.branches_hard > 0 && !success.empty() &&
                    success.rate(context.task, context.family) < kHard;
  return hard ? options.branches_hard : options.branches;
}

/// Refuses a saved state that is not `expected`. Errors: StoreError.
void expect_empty_state(const std::string& rule, const std::string& state);

}  // namespace espalier::tree
