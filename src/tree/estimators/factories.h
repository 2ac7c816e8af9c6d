// The estimators' factories, one of each line of registry.inc.
#pragma once

#include <memory>

#include "tree/advantage.h"

namespace espalier::tree {

#define ESPALIER_ESTIMATOR(name) \
  std::unique_ptr<AdvantageEstimator> make_##name(const AdvantageOptions& options);
#include "tree/estimators/registry.inc"
#undef ESPALIER_ESTIMATOR

}  // namespace espalier::tree
