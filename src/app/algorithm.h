// The estimator and the fork rule a configuration asks for, and what is doubtful about the pair.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/config.h"
#include "tree/advantage.h"
#include "tree/fork_rule.h"
#include "tree/shaping.h"

namespace espalier::app {

/// Errors: ConfigError for a switch without meaning for this estimator.
std::unique_ptr<tree::AdvantageEstimator> estimator_of(const common::Config& config);
/// Errors: ConfigError.
std::unique_ptr<tree::ForkRule> fork_rule_of(const common::Config& config);

/// What is done around the estimator: length penalty and filter.
tree::ShapingOptions shaping_of(const common::Config& config);

/// One sentence each; empty: nothing to warn of. For start-up and report.
std::vector<std::string> algorithm_warnings(const tree::AdvantageEstimator& estimator,
                                            const tree::ForkRule& rule);

}  // namespace espalier::app
