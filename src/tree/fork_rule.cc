#include "tree/fork_rule.h"

#include "common/error.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<ForkRule> (*make)(const ForkRuleOptions&);
};

constexpr Entry kRules[] = {
#define ESPALIER_FORK_RULE(name) {#name, make_##name##_rule},
#include "tree/fork_rules/registry.inc"
#undef ESPALIER_FORK_RULE
};

void require(bool holds, const std::string& field, double seen, const std::string& allowed) {
  if (holds) return;
  throw common::ConfigError("fork rule: " + field + " = " + std::to_string(seen) +
                            " is out of range; allowed: " + allowed);
}

void check_options(const ForkRuleOptions& options) {
  require(options.branches >= 1, "branches", options.branches, ">= 1");
  require(options.max_forks_per_tree >= 0, "max_forks_per_tree", options.max_forks_per_tree,
          ">= 0");
  require(options.quantile >= 0 && options.quantile <= 1, "quantile", options.quantile, "0 to 1");
  require(options.probability >= 0 && options.probability <= 1, "probability", options.probability,
          "0 to 1");
  require(options.min_turns_between >= 0, "min_turns_between", options.min_turns_between, ">= 0");
  require(options.branches_hard >= 0, "branches_hard", options.branches_hard, ">= 0");
  require(options.consecutive_penalty >= 0 && options.consecutive_penalty <= 1,
          "consecutive_penalty", options.consecutive_penalty, "0 to 1");
  require(options.visit_penalty >= 0, "visit_penalty", options.visit_penalty, ">= 0");
  require(options.exploration >= 0, "exploration", options.exploration, ">= 0");
}

}  // namespace

std::unique_ptr<ForkRule> make_fork_rule(const std::string& name, const ForkRuleOptions& options) {
  std::string names;
  for (const Entry& entry : kRules) {
    if (name == entry.name) {
      check_options(options);
      return entry.make(options);
    }
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw common::ConfigError("fork rule: unknown name '" + name + "'; there are " + names);
}

std::vector<std::string> fork_rule_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kRules) names.emplace_back(entry.name);
  return names;
}

void expect_empty_state(const std::string& rule, const std::string& state) {
  if (state.empty()) return;
  throw common::StoreError("restore fork rule " + rule +
                           ": it keeps no state, but the saved one is '" + state.substr(0, 80) +
                           "'");
}

}  // namespace espalier::tree
