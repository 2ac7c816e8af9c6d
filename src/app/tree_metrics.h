// Numbers about a batch of trees, under the names users of RL trainers know. Pure functions.
#pragma once

#include <vector>

#include "common/metrics.h"
#include "tree/ledger.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// critic/score/*, critic/advantages/*, response_length/*, num_turns/mean, passrate/pass@1, tree/*,
/// env/infra_failed_rate. Trees must carry advantages.
common::Metrics tree_metrics(const std::vector<tree::Tree>& trees, int max_response_length);

/// budget/<unit> for every unit.
common::Metrics budget_metrics(const tree::Spend& total);

}  // namespace espalier::app
