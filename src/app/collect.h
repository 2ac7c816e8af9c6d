// Rolls out a list of requests with a progress bar, and stops on Ctrl-C.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rollout/farm.h"

namespace espalier::app {

struct CollectOptions {
  std::string label;              // of a progress bar of its own; empty: none
  std::function<void()> on_tick;  // called ten times a second, for a bar of the caller's
};

/// The sealed trees in order of their index. Throws Cancelled when Ctrl-C was pressed; trees
/// finished by then are in the journal.
std::vector<tree::Tree> collect(rollout::Farm& farm, std::vector<rollout::TreeRequest> requests,
                                const CollectOptions& options);

/// Mean reward of the leaves that have one; 0 without any.
double mean_reward(const tree::Tree& tree);

}  // namespace espalier::app
