#include "app/algorithm.h"

#include <fmt/core.h>

#include "common/error.h"

namespace espalier::app {

std::unique_ptr<tree::AdvantageEstimator> estimator_of(const common::Config& config) {
  const common::TreeConfig& tree = config.algorithm.tree;
  tree::AdvantageOptions options;
  options.weight = tree.weight;
  options.value = tree.value;
  options.baseline = tree.baseline;
  options.sigma = tree.sigma;
  options.step = tree.step;
  options.kappa = tree.kappa;
  options.gamma = tree.gamma;
  options.lambda = tree.lam;
  options.step_weight = tree.step_weight;
  return tree::make_estimator(config.algorithm.adv_estimator, options);
}

std::unique_ptr<tree::ForkRule> fork_rule_of(const common::Config& config) {
  const common::TreeConfig& tree = config.algorithm.tree;
  tree::ForkRuleOptions options;
  options.branches = tree.branches;
  options.branches_hard = tree.branches_hard;
  options.max_forks_per_tree = tree.max_forks;
  options.quantile = tree.quantile;
  options.probability = tree.probability;
  options.min_turns_between = tree.min_turns_between;
  options.consecutive_penalty = tree.consecutive_penalty;
  options.visit_penalty = tree.visit_penalty;
  options.exploration = tree.exploration;
  auto rule = tree::make_fork_rule(tree.fork_rule, options);
  if (rule->decides_after_sampling() || rule->looks_back())
    throw common::ConfigError(
        fmt::format("algorithm.tree.fork_rule: '{}' decides after the action was sampled; rollouts "
                    "fork before it only: none, uniform, online_entropy, voi",
                    tree.fork_rule));
  return rule;
}

std::vector<std::string> algorithm_warnings(const tree::AdvantageEstimator& estimator,
                                            const tree::ForkRule& rule) {
  std::vector<std::string> warnings;
  if (!rule.stopping_time() && estimator.credits_prefix())
    warnings.push_back(
        fmt::format("fork rule '{}' decides from finished rollouts: the advantages of '{}' before "
                    "a fork are biased",
                    rule.name(), estimator.name()));
  if (!rule.exchangeable())
    warnings.push_back(
        fmt::format("fork rule '{}' has seen one of the siblings it makes: they are not "
                    "exchangeable, and comparing them is biased",
                    rule.name()));
  return warnings;
}

}  // namespace espalier::app
