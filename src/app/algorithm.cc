#include "app/algorithm.h"

#include <fmt/core.h>

#include "app/selector.h"

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

tree::ShapingOptions shaping_of(const common::Config& config) {
  const common::AlgorithmConfig& algorithm = config.algorithm;
  return {algorithm.filter_groups, algorithm.overlong_length, algorithm.overlong_buffer,
          algorithm.overlong_penalty};
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
  if (tree.fork_rule == "meta_agent" && !tree.selector.url.empty()) {
    options.selector.model = tree.selector.model;
    options.selector.max_tokens = tree.selector.max_tokens;
    options.selector.inject = tree.selector.inject;
    options.selector.price_prompt = tree.selector.price_prompt;
    options.selector.price_completion = tree.selector.price_completion;
    options.selector.ask = selector_of(tree.selector);
  }
  return tree::make_fork_rule(tree.fork_rule, options);
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
