// A tree as estimators see it: which nodes count, the leaves below them, who their siblings are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

/// A node is *valid* when a leaf with a reward lies below it (or it is one). Invalid nodes are
/// dropped with the edge that leads to them: they count in no |C(n)|, |L(n)|, G or N.
struct TreeView {
  /// Expects parents before children, depth first (canonical order). Rewards count γ^turn of their
  /// leaf: as seen from the prompt.
  TreeView(const Tree& tree, double gamma);

  const Tree* tree;
  std::vector<uint8_t> valid;              // per node
  std::vector<std::vector<int>> children;  // per node: its valid children, by branch
  std::vector<int> roots;                  // valid ones
  std::vector<int> leaves;                 // valid ones, depth first
  std::vector<double> rewards;             // of `leaves`
  std::vector<int> first_leaf, end_leaf;   // per node: L(n) is that range of `leaves`
  std::vector<int> head;                   // per node: b(n), the nearest ancestor-or-self with a
                                           // valid sibling; −1: none

  int leaf_count(int n) const { return end_leaf[n] - first_leaf[n]; }
  std::span<const double> rewards_below(int n) const {
    return std::span(rewards).subspan(static_cast<size_t>(first_leaf[n]),
                                      static_cast<size_t>(leaf_count(n)));
  }
  int parent(int n) const { return tree->nodes[static_cast<size_t>(n)].parent; }
  /// n and its valid siblings; the roots are the prompt's children.
  const std::vector<int>& siblings(int n) const {
    return parent(n) < 0 ? roots : children[static_cast<size_t>(parent(n))];
  }
  /// Valid nodes that stand below a branching (roots too when there are several).
  std::vector<std::vector<int>> groups() const;
};

enum class Value {
  leaf,          // mean over L(n)
  hierarchical,  // V_h: mean over the children's V_h
  entropy,       // Σ_c softmax_c(H_c)·V(c), H_c = −mean log-prob of c's action (AT²PO)
};

struct NodeValues {
  std::vector<double> node;  // V(n); 0 of an invalid one
  double prompt = 0;         // V of the prompt
};

/// `leaf`: what each of view.leaves is worth (view.rewards, or something made of them).
NodeValues node_values(const TreeView& view, const std::vector<double>& leaf, Value value);

/// Mean, exact when all values are equal. Empty: 0.
double mean(std::span<const double> values);

/// v_i − (1/(m−1))·Σ_{c≠i} v_c, summed as differences: exactly 0 when all are equal. m = 1: 0.
double leave_one_out(std::span<const double> values, size_t i);

/// Sample standard deviation (n − 1); fewer than two: 0.
double deviation(std::span<const double> values);

}  // namespace espalier::tree
