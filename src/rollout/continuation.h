// Episodes that go on from a recorded turn. Internal to rollout/.
#pragma once

#include <memory>

#include "rollout/episode.h"

namespace espalier::rollout {

/// Puts the recorded turns of the request's Continuation into the tree and says where its episode
/// starts. Takes the environment. Before TreeState::started().
BranchPoint continue_recorded(const std::shared_ptr<TreeState>& tree, const Harness& harness);

}  // namespace espalier::rollout
