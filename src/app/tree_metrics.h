// Numbers about a batch of trees, under the names users of RL trainers know. Pure functions.
#pragma once

#include <vector>

#include "common/metrics.h"
#include "tree/ledger.h"
#include "tree/shaping.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// critic/score/*, critic/advantages/*, response_length/*, num_turns/mean, passrate/pass@1, tree/*,
/// env/infra_failed_rate. Trees must carry advantages.
common::Metrics tree_metrics(const std::vector<tree::Tree>& trees, int max_response_length);

/// training/staleness/{mean,min,max}: how many versions the weights were ahead of those that
/// sampled, over turns.
common::Metrics staleness_metrics(const std::vector<tree::Tree>& trees, uint64_t version);

/// budget/<unit> for every unit: what the run has spent so far.
common::Metrics budget_metrics(const tree::Ledger& ledger);

/// tree/filtered_prompts, tree/filtered_forks, tree/overlong_leaves; those of what is off are left
/// out.
common::Metrics shaping_metrics(const tree::ShapingCounts& counts,
                                const tree::ShapingOptions& options);

/// Σ over the tokens of a pass of those before them on their path. linear: every root-to-leaf path
/// by itself.
uint64_t attended_tokens(const std::vector<tree::Tree>& trees, bool linear);

}  // namespace espalier::app
