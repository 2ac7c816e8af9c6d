// The warm start: demonstrations from a noisy oracle in real sandboxes, then behaviour cloning on
// them.
#pragma once

#include <vector>

#include "app/session.h"
#include "learner/learner.h"

namespace espalier::app {

/// Rolls out sft.episodes noisy oracle episodes; one tree each, loss on action tokens only.
std::vector<tree::Tree> demonstrate(Session& session);

/// sft.steps updates of sft.batch_size demonstrations, drawn epoch by epoch in an order from the
/// seed. Throws Cancelled on Ctrl-C, PolicyError after max_bad_steps in a row. Returns the running
/// mean of the loss at the end.
double behaviour_cloning(const common::Config& config, learner::Learner& learner,
                         const std::vector<tree::Tree>& demonstrations);

}  // namespace espalier::app
