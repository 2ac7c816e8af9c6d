// Every estimator once more, straight from its formula over enumerated leaves. Walks up from leaves
// and shares nothing with src/tree/estimators: slow, and meant to be read beside the papers.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tree/advantage.h"

namespace espalier::tree::testing {

struct Expected {
  double value = 0, advantage = 0, weight = 0, s_plus = 0, s_minus = 0;
};

/// One tree of a batch, with the formulas' symbols as functions.
class Reference {
 public:
  Reference(const std::vector<Tree>& batch, size_t which, const AdvantageOptions& options)
      : batch_(batch), tree_(batch[which]), options_(options) {}

  // Symbols.

  std::vector<int> valid_leaves(const Tree& tree) const {
    std::vector<int> result;
    for (int leaf : tree.leaves())
      if (tree.nodes[leaf].reward) result.push_back(leaf);
    return result;
  }
  std::vector<int> leaves() const { return valid_leaves(tree_); }
  /// R of a leaf as the prompt sees it.
  double reward(int leaf) const { return discounted(tree_, leaf); }
  double discounted(const Tree& tree, int leaf) const {
    return *tree.nodes[leaf].reward * std::pow(options_.gamma, tree.nodes[leaf].turn);
  }
  /// −1: the prompt, above everything.
  bool above(int ancestor, int node) const {
    if (ancestor < 0) return true;
    for (; node >= 0; node = tree_.nodes[node].parent)
      if (node == ancestor) return true;
    return false;
  }
  std::vector<int> below(int node) const {  // L(n)
    std::vector<int> result;
    for (int leaf : leaves())
      if (above(node, leaf)) result.push_back(leaf);
    return result;
  }
  std::vector<int> children(int parent) const {  // C(n), valid ones
    std::vector<int> result;
    for (size_t i = 0; i < tree_.nodes.size(); ++i)
      if (tree_.nodes[i].parent == parent && !below(static_cast<int>(i)).empty())
        result.push_back(static_cast<int>(i));
    return result;
  }
  int parent(int node) const { return tree_.nodes[node].parent; }
  std::vector<int> siblings(int node) const { return children(parent(node)); }  // and n itself
  int b(int node) const {
    for (; node >= 0; node = parent(node))
      if (siblings(node).size() > 1) return node;
    return -1;
  }
  int step(int node) const { return options_.step == "turn" ? node : b(node); }

  static double average(const std::vector<double>& values) {
    double sum = 0;
    for (double value : values) sum += value;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
  }
  static double deviation(const std::vector<double>& values) {
    if (values.size() < 2) return 0;
    double squares = 0;
    for (double value : values) squares += std::pow(value - average(values), 2);
    return std::sqrt(squares / static_cast<double>(values.size() - 1));
  }
  std::vector<double> rewards(const std::vector<int>& leaves) const {
    std::vector<double> result;
    for (int leaf : leaves) result.push_back(reward(leaf));
    return result;
  }
  std::vector<double> batch_rewards() const {
    std::vector<double> result;
    for (const Tree& tree : batch_)
      for (int leaf : valid_leaves(tree)) result.push_back(discounted(tree, leaf));
    return result;
  }
  /// H_c = −mean log-prob of the action.
  double entropy(int node) const {
    std::vector<double> all;
    for (float log_prob : tree_.nodes[node].log_probs) all.push_back(-log_prob);
    return average(all);
  }
  /// Share of child c in its parent's V.
  double share(int child, const std::string& mode) const {
    const auto group = siblings(child);
    if (mode == "hierarchical") return 1.0 / static_cast<double>(group.size());
    double all = 0;
    for (int c : group) all += std::exp(entropy(c));
    return std::exp(entropy(child)) / all;
  }
  /// V(n) of leaf values `worth` (by node index): Σ_{l∈L(n)} worth_l · Π shares from l up to n.
  double V(int node, const std::string& mode, const std::vector<double>& worth) const {
    double sum = 0;
    const auto under = below(node);
    for (int leaf : under) {
      double part = mode == "leaf" ? 1.0 / static_cast<double>(under.size()) : 1;
      if (mode != "leaf")
        for (int a = leaf; a != node; a = parent(a)) part *= share(a, mode);
      sum += part * worth[leaf];
    }
    return sum;
  }
  std::vector<double> own_rewards() const {
    std::vector<double> worth(tree_.nodes.size(), 0.0);
    for (int leaf : leaves()) worth[leaf] = reward(leaf);
    return worth;
  }
  double V(int node, const std::string& mode) const { return V(node, mode, own_rewards()); }

  /// v_n minus the baseline of its siblings, shrunk by κ.
  template <class ValueOf>
  double against_siblings(int node, const std::string& baseline, ValueOf&& v) const {
    auto base_of = [&](int of) {
      std::vector<double> all, others;
      for (int c : siblings(of)) {
        all.push_back(v(c));
        if (c != of) others.push_back(v(c));
      }
      if (baseline == "loo") return average(others);
      return baseline == "mean" ? average(all) : v(parent(of));
    };
    if (siblings(node).size() < 2) return 0;
    double base = base_of(node);
    int root = node;
    while (parent(root) >= 0) root = parent(root);
    if (root != node && siblings(root).size() > 1 && options_.kappa > 0) {
      const double k = static_cast<double>(siblings(node).size()) - (baseline == "loo" ? 1 : 0);
      base =
          k / (k + options_.kappa) * base + options_.kappa / (k + options_.kappa) * base_of(root);
    }
    return v(node) - base;
  }

  double sigma(const std::string& mode, int node) const {
    if (mode == "off") return 1;
    if (mode == "batch") return deviation(batch_rewards()) + options_.epsilon;
    if (mode == "parent") {
      const int p = parent(step(node) < 0 ? node : step(node));
      if (p >= 0 && below(p).size() >= 6) return deviation(rewards(below(p))) + options_.epsilon;
    }
    return deviation(rewards(leaves())) + options_.epsilon;
  }

  /// Weight of leaf l's coefficient at node n.
  double pair_weight(int leaf, int node, const std::string& mode) const {
    const double N = static_cast<double>(leaves().size());
    const double L = static_cast<double>(below(node).size());
    if (mode == "linear") return 1 / N;
    if (mode == "sqrt") return 1 / (N * std::sqrt(L));
    if (mode == "once") return 1 / (N * L);
    double chance = 1;
    for (int a = leaf; a >= 0; a = parent(a)) chance /= static_cast<double>(siblings(a).size());
    return chance;
  }

  /// Sums coefficient(l, n) over the leaves of n.
  template <class Coefficient>
  Expected sum(int node, const std::string& weight, const std::string& value,
               Coefficient&& coefficient) const {
    Expected expected;
    if (below(node).empty()) return expected;
    const double from_here = std::pow(options_.gamma, -tree_.nodes[node].turn);
    for (int leaf : below(node)) {
      const double a = from_here * coefficient(leaf, node), w = pair_weight(leaf, node, weight);
      (a > 0 ? expected.s_plus : expected.s_minus) += w * a;
      expected.advantage += w * a;
      expected.weight += w;
    }
    expected.advantage /= expected.weight;
    expected.value = from_here * V(node, value);
    return expected;
  }

  const Tree& tree() const { return tree_; }
  const std::vector<Tree>& batch() const { return batch_; }
  const AdvantageOptions& options() const { return options_; }

 private:
  const std::vector<Tree>& batch_;
  const Tree& tree_;
  AdvantageOptions options_;
};

inline std::string pick(const std::string& seen, const char* otherwise) {
  return seen == "auto" ? otherwise : seen;
}

// Leaf-only.

inline Expected reference_leaf_only(const Reference& r, int node, const char* own_baseline,
                                    const char* own_sigma) {
  const auto& o = r.options();
  const std::string value = pick(o.value, "leaf"), baseline = pick(o.baseline, own_baseline);
  return r.sum(node, pick(o.weight, "linear"), value, [&](int leaf, int n) {
    double base = r.V(-1, value);
    if (baseline == "loo") {
      std::vector<double> others;
      if (value == "leaf") {
        for (int other : r.leaves())
          if (other != leaf) others.push_back(r.reward(other));
      } else {
        for (int root : r.children(-1))
          if (!r.above(root, leaf)) others.push_back(r.V(root, "hierarchical"));
      }
      base = others.empty() ? r.reward(leaf) : Reference::average(others);
    }
    return (r.reward(leaf) - base) / r.sigma(pick(o.sigma, own_sigma), n);
  });
}

inline Expected reference_rloo(const Reference& r, int node) {
  return reference_leaf_only(r, node, "loo", "off");
}
inline Expected reference_grpo(const Reference& r, int node) {
  return reference_leaf_only(r, node, "mean", "prompt");
}
inline Expected reference_dr_grpo(const Reference& r, int node) {
  return reference_leaf_only(r, node, "mean", "off");
}
inline Expected reference_reinforce_pp(const Reference& r, int node) {
  const auto& o = r.options();
  const double centre =
      Reference::average(o.baseline == "parent" ? r.rewards(r.leaves()) : r.batch_rewards());
  return r.sum(node, pick(o.weight, "linear"), "leaf", [&](int leaf, int n) {
    return (r.reward(leaf) - centre) / r.sigma(pick(o.sigma, "batch"), n);
  });
}
inline Expected reference_tree_grpo(const Reference& r, int node) {
  const std::string sigma = pick(r.options().sigma, "prompt");
  return r.sum(node, pick(r.options().weight, "linear"), "leaf", [&](int leaf, int n) {
    int root = leaf;
    while (r.parent(root) >= 0) root = r.parent(root);
    const auto all = r.rewards(r.leaves()), tree = r.rewards(r.below(root));
    const double within =
        sigma == "prompt" ? Reference::deviation(tree) + r.options().epsilon : r.sigma(sigma, n);
    return (r.reward(leaf) - Reference::average(all)) / r.sigma(sigma, n) +
           (r.reward(leaf) - Reference::average(tree)) / within;
  });
}
inline double treepo_leaf(const Reference& r, int leaf) {
  double above = 0, size = 0;
  for (int a = leaf; a >= -1; a = a < 0 ? -2 : r.parent(a)) {
    if (r.children(a).size() < 2) continue;
    const double L = static_cast<double>(r.below(a).size());
    above += L * (r.reward(leaf) - r.V(a, "leaf"));
    size += L;
  }
  return size == 0 ? 0 : above / size;
}
inline Expected reference_treepo(const Reference& r, int node) {
  std::vector<double> all;
  for (size_t i = 0; i < r.batch().size(); ++i) {
    const Reference other(r.batch(), i, r.options());
    for (int leaf : other.leaves()) all.push_back(treepo_leaf(other, leaf));
  }
  const bool whiten = r.options().sigma != "off";
  return r.sum(node, pick(r.options().weight, "linear"), "leaf", [&](int leaf, int) {
    if (!whiten) return treepo_leaf(r, leaf);
    return (treepo_leaf(r, leaf) - Reference::average(all)) /
           (Reference::deviation(all) + r.options().epsilon);
  });
}

// On nodes.

inline Expected reference_siblings(const Reference& r, int node, const char* own_weight,
                                   const char* own_value, const char* own_baseline, bool b) {
  const auto& o = r.options();
  const std::string value = pick(o.value, own_value);
  const int n = b ? r.b(node) : r.step(node);
  return r.sum(node, pick(o.weight, own_weight), value, [&](int, int at) {
    if (n < 0) return 0.0;
    const double a =
        r.against_siblings(n, pick(o.baseline, own_baseline), [&](int c) { return r.V(c, value); });
    return a / r.sigma(pick(o.sigma, "off"), at);
  });
}
inline Expected reference_tree_loo(const Reference& r, int node) {
  return reference_siblings(r, node, "visitation", "hierarchical", "loo", true);
}
inline Expected reference_treerpo(const Reference& r, int node) {
  return reference_siblings(r, node, "once", "hierarchical", "mean", false);
}
inline Expected reference_diff_parent(const Reference& r, int node) {
  return reference_siblings(r, node, "once", "leaf", "parent", false);
}
inline Expected reference_shepherd(const Reference& r, int node) {
  const auto& o = r.options();
  auto first = [&](int c) { return r.reward(r.below(c).front()); };
  const int n = r.b(node);
  return r.sum(node, pick(o.weight, "once"), "leaf", [&](int, int at) {
    return n < 0 ? 0.0
                 : r.against_siblings(n, pick(o.baseline, "mean"), first) /
                       r.sigma(pick(o.sigma, "off"), at);
  });
}
inline Expected reference_treerl(const Reference& r, int node) {
  const auto& o = r.options();
  const std::string value = pick(o.value, "leaf");
  const double N = static_cast<double>(r.leaves().size());
  const double all = Reference::average(r.rewards(r.leaves()));
  std::vector<double> worth(r.tree().nodes.size(), 0.0);
  for (int leaf : r.leaves()) {
    const double others = (N * all - r.reward(leaf)) / (N - 1);
    worth[leaf] = N < 2 ? 0 : r.reward(leaf) - (o.baseline == "mean" ? all : others);
  }
  auto u = [&](int n) {
    return r.V(n, value, worth) / std::sqrt(static_cast<double>(r.below(n).size()));
  };
  const int n = r.step(node);
  return r.sum(node, pick(o.weight, "linear"), value, [&](int, int at) {
    return n < 0 ? 0.0 : (2 * u(n) - u(r.parent(n))) / r.sigma(pick(o.sigma, "off"), at);
  });
}
inline Expected reference_node_value(const Reference& r, int node) {
  const auto& o = r.options();
  const std::string value = pick(o.value, "leaf");
  std::vector<double> z(r.tree().nodes.size(), 0.0);
  for (int leaf : r.leaves())
    z[leaf] = (r.reward(leaf) - Reference::average(r.rewards(r.leaves()))) /
              r.sigma(pick(o.sigma, "prompt"), node);
  return r.sum(node, pick(o.weight, "once"), value, [&](int, int n) { return r.V(n, value, z); });
}
inline std::string state_before(const Reference& r, int node) {
  const int p = r.parent(node);
  if (p < 0) return "prompt";
  const std::string& snapshot = r.tree().nodes[p].snapshot;
  return snapshot.empty() ? "#" + std::to_string(p) : snapshot;
}
inline Expected reference_gigpo(const Reference& r, int node) {
  const auto& o = r.options();
  const std::string value = pick(o.value, "leaf");
  auto from = [&](int n) { return std::pow(o.gamma, r.tree().nodes[n].turn); };
  std::vector<double> group, others;
  for (size_t i = 0; i < r.tree().nodes.size(); ++i) {
    const int c = static_cast<int>(i);
    if (r.below(c).empty() || state_before(r, c) != state_before(r, node)) continue;
    group.push_back(r.V(c, value) / from(c));
    if (c != node) others.push_back(group.back());
  }
  const bool loo = o.baseline == "loo";
  const double own = r.V(node, value) / from(node);
  const double off = loo ? (others.empty() ? 0 : own - Reference::average(others))
                         : own - Reference::average(group);
  AdvantageOptions trajectories = o;
  trajectories.sigma = "off";
  trajectories.gamma = o.gamma;
  return r.sum(node, pick(o.weight, "linear"), value, [&](int leaf, int n) {
    const Reference plain(r.batch(), static_cast<size_t>(&r.tree() - r.batch().data()),
                          trajectories);
    const double e = reference_leaf_only(plain, leaf, "mean", "off").advantage *
                     std::pow(o.gamma, r.tree().nodes[leaf].turn);
    return (e + o.step_weight * from(n) * off) / r.sigma(pick(o.sigma, "prompt"), n);
  });
}

}  // namespace espalier::tree::testing
