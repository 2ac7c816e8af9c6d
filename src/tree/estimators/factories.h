// The estimators' factories, one of each line of registry.inc.
#pragma once

#include <memory>

#include "tree/estimators/estimator.h"

namespace espalier::tree {

#define ESPALIER_ESTIMATOR(name) \
  std::unique_ptr<AdvantageEstimator> make_##name(const AdvantageOptions& options);
#include "tree/estimators/registry.inc"
#undef ESPALIER_ESTIMATOR

}  // namespace espalier::tree
