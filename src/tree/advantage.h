// Advantage estimators: sealed trees → per node value, A, ω and the clipping sums S⁺ and S⁻.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

/// Switches orthogonal to the estimator, by the names of algorithm.tree.*; "auto" is the form in
/// which the estimator was published. What each does: docs/estimators.md.
struct AdvantageOptions {
  std::string weight = "auto";    // visitation | linear | sqrt | once: ω of a shared prefix
  std::string value = "auto";     // leaf | hierarchical | entropy: V(n)
  std::string baseline = "auto";  // loo | mean | parent
  std::string sigma = "auto";     // off | prompt | batch | parent: what advantages are divided by
  std::string step = "auto";      // segment | turn: what a node of a paper's formula is
  double kappa = 0;               // sibling baselines shrink towards the roots' by k/(k+κ)
  double gamma = 1;               // discount a turn
  double lambda = 0.95;           // gae
  double step_weight = 1;         // gigpo: ω, weight of the step advantage
  double epsilon = 1e-6;          // added to σ
};

/// Thread contract: estimate() is pure and may run on any thread. Deterministic; no torch.
///
/// Undefined cases: a leaf without a reward is dropped with the edge that leads to it (an
/// infrastructure failure costs one edge and changes no sibling's meaning); a node all of whose
/// leaves are dropped gets A = ω = 0; a node without a valid sibling anywhere above gets A = 0;
/// equal rewards give A = 0 exactly. All others: docs/estimators.md.
class AdvantageEstimator {
 public:
  virtual ~AdvantageEstimator() = default;
  virtual std::string name() const = 0;
  /// Whether what came of forking somewhere enters the credit of the prefix: then the fork rule
  /// should be a stopping time.
  virtual bool credits_prefix() const = 0;
  /// The trees of one step: statistics of the batch are over them. Expects canonical order.
  virtual void estimate(std::span<Tree> batch) const = 0;
  /// A batch of one.
  void estimate(Tree& tree) const { estimate(std::span<Tree>(&tree, 1)); }
};

/// Errors: ConfigError naming the value seen and those there are; also for a switch that has no
/// meaning for this estimator.
std::unique_ptr<AdvantageEstimator> make_estimator(const std::string& name,
                                                   const AdvantageOptions& options);
std::vector<std::string> estimator_names();

}  // namespace espalier::tree
