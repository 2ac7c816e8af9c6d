// Advantage estimators: a sealed tree → per node value, A, ω and the clipping sums S⁺ and S⁻.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

/// Switches orthogonal to the estimator.
struct AdvantageOptions {
  bool norm_adv_by_std = false;  // σ of the prompt's leaves; off for tree_loo
  double epsilon = 1e-6;         // added to σ
};

/// Thread contract: estimate() is pure and may run on any thread. Deterministic; no torch.
///
/// Undefined cases: a leaf without a reward is dropped with the edge that leads to it (an
/// infrastructure failure costs one edge and changes no sibling's meaning); a node all of whose
/// leaves are dropped gets A = ω = 0; a node without a valid sibling anywhere above gets A = 0;
/// equal rewards give A = 0.
class AdvantageEstimator {
 public:
  virtual ~AdvantageEstimator() = default;
  virtual std::string name() const = 0;
  /// Whether it credits a prefix by what came of forking there (needs a stopping-time fork rule).
  virtual bool credits_prefix() const = 0;
  virtual void estimate(Tree& tree) const = 0;
};

/// "tree_loo", "rloo", "grpo". Errors: ConfigError naming the value seen and the names there are.
std::unique_ptr<AdvantageEstimator> make_estimator(const std::string& name,
                                                   const AdvantageOptions& options);
std::vector<std::string> estimator_names();

}  // namespace espalier::tree
