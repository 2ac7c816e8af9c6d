// The losses' factories, one of each line of registry.inc. Sees torch.
#pragma once

#include <memory>

#include "learner/loss.h"

namespace espalier::learner {

#define ESPALIER_LOSS(name) std::unique_ptr<Loss> make_##name(const common::LearnerConfig& config);
#include "learner/losses/registry.inc"
#undef ESPALIER_LOSS

}  // namespace espalier::learner
