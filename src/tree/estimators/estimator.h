// What all estimators share: an estimator says A(n) or A_l, this turns it into ω, S⁺ and S⁻ under
// the switches.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tree/advantage.h"
#include "tree/estimators/tree_view.h"

namespace espalier::tree {

enum class Weight { visitation, linear, sqrt, once };
enum class Baseline { loo, mean, parent };
enum class Sigma { off, prompt, batch, parent };
enum class Step { segment, turn };

/// The values a switch may take, the first being what "auto" means. Empty: it has no meaning here,
/// and only "auto" is accepted.
struct Profile {
  std::vector<Weight> weights = {Weight::linear, Weight::visitation, Weight::sqrt, Weight::once};
  std::vector<Value> values;
  std::vector<Baseline> baselines;
  std::vector<Sigma> sigmas = {Sigma::off, Sigma::prompt, Sigma::batch};
  std::vector<Step> steps;
  bool kappa = false;
  bool credits_prefix = true;
};

/// What an estimator says of one tree, before σ. Coefficient of leaf l at node n: leaf[l] +
/// node[n].
struct Credits {
  std::vector<double> leaf = {};  // A_l along with TreeView::leaves; empty: none
  std::vector<double> node = {};  // A(n) per node; empty: none
  bool normalised = false;        // divided already: σ is not applied again
};

/// The trees of a step as estimators see them.
struct Batch {
  std::vector<TreeView> trees;
  std::vector<double> rewards;  // of all valid leaves
};

class Estimator : public AdvantageEstimator {
 public:
  std::string name() const final { return name_; }
  bool credits_prefix() const final { return credits_prefix_; }
  void estimate(std::span<Tree> batch) const final;

 protected:
  /// Errors: ConfigError for a switch that is not in the profile.
  Estimator(const char* name, const Profile& profile, const AdvantageOptions& options);

  virtual Credits credit(const TreeView& view, const Batch& batch) const = 0;
  /// One a tree; override it, instead of credit(), where trees share more than statistics.
  virtual std::vector<Credits> credits(const Batch& batch) const;

  /// v_b minus its baseline among `group` (values by node), shrunk by κ; 0 without a sibling.
  /// k = m − 1 (loo) or m samples of the siblings stand against κ of the roots'.
  double sibling_advantage(const TreeView& view, const NodeValues& values, int b) const;
  /// The same of every node's step; 0 of invalid nodes and those without a step.
  std::vector<double> sibling_advantages(const TreeView& view, const NodeValues& values) const;
  /// The node that stands for n in a formula over steps: its segment's head (−1: none), or itself.
  int step_of(const TreeView& view, int n) const { return step == Step::turn ? n : view.head[n]; }
  /// σ + ε, or 1 when off. Of `n` only with Sigma::parent.
  double divisor(const TreeView& view, const Batch& batch, int n) const;

  Weight weight;
  Value value = Value::leaf;
  Baseline baseline = Baseline::mean;
  Sigma sigma = Sigma::off;
  Step step = Step::segment;
  AdvantageOptions options;

 private:
  /// Π 1/|C(a)| over the ancestors, the prompt among them: the chance of coming by when each
  /// branching is left at random.
  static std::vector<double> visits(const TreeView& view);
  double node_weight(const TreeView& view, int n, double visit) const;
  void finish(const TreeView& view, const Batch& batch, const Credits& credits, Tree& tree) const;

  std::string name_;
  bool credits_prefix_;
};

/// R_l minus the baseline of the prompt's leaves: V of the prompt (mean, parent), or leave-one-out
/// over the other leaves (Value::leaf) or over the other roots' V_h (hierarchical).
std::vector<double> leaf_advantages(const TreeView& view, Value value, Baseline baseline);

}  // namespace espalier::tree
