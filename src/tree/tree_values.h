// What every estimator starts from: which nodes count, and the mean rewards below them.
#pragma once

#include <vector>

#include "tree/advantage.h"
#include "tree/trace_tree.h"

namespace espalier::tree {

/// A node is *valid* when a leaf with a reward lies below it (or it is one). Invalid nodes are
/// dropped with the edge that leads to them: they count in no |C(n)| and in no G.
struct TreeValues {
  std::vector<uint8_t> valid;              // per node
  std::vector<std::vector<int>> children;  // per node: its valid children, by branch
  std::vector<int> roots;                  // valid ones
  std::vector<int> leaves;                 // valid ones, depth first
  std::vector<double> value;    // V_h: R of a leaf, else the mean of the children's V_h; invalid: 0
  std::vector<double> rewards;  // of `leaves`
};

/// Expects parents before children (canonical order).
TreeValues tree_values(const Tree& tree);

/// Mean, exact when all values are equal. Empty: 0.
double mean(const std::vector<double>& values);

/// v_i − (1/(m−1))·Σ_{c≠i} v_c, summed as differences: exactly 0 when all are equal. m = 1: 0.
double leave_one_out(const std::vector<double>& values, size_t i);

/// Sample standard deviation (n − 1) of the prompt's leaf rewards; fewer than two: 0.
double sigma(const std::vector<double>& rewards);

/// What an advantage is divided by: σ + ε with norm_adv_by_std, else 1.
double divisor(const TreeValues& values, const AdvantageOptions& options);

/// Sets value; zeroes advantage, weight, S⁺ and S⁻ of every node.
void reset_estimates(Tree& tree, const TreeValues& values);

/// For leaf-only estimators on N leaves: leaf l's advantage is the same on its whole path, with
/// weight 1/N. So S⁺(n) = (1/N)·Σ_{l∈L(n)} max(A_l, 0), S⁻ likewise with min, ω(n) = |L(n)|/N, A(n)
/// = mean of A_l over L(n). `advantages` goes with values.leaves.
void spread_leaf_advantages(Tree& tree, const TreeValues& values,
                            const std::vector<double>& advantages);

}  // namespace espalier::tree
