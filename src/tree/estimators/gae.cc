// gae: generalised advantage estimation over a critic on nodes (Schulman et al. 2016).
//
//   δ(n) = R − V(n) at a leaf, else mean over c∈C(n) of V(c) − V(n); A(n) = δ(n) + λ·mean over C(n)
//   of A(c). V(n): of the state in which n's action was chosen; siblings share it.
//
// The critic is fitted anew on every step's trees: V(n) = c + w·x(n). c: mean V_h of the other
// roots of the prompt (of the other prompts, where there is one root). w: ridge regression (penalty
// 1) of V_h − c on x over the nodes of the *other* trees. So it never saw what it is a baseline of:
// no bias. x: turn, entropy of the first token, whether the command before failed, or timed out; 1.
// Where neither c nor w can be had (one root, one tree), A = 0.
//
// Example: two roots; r0 branches in two with rewards 1 and 0, r1 earns 0; no other tree, so V = 0
// on r0's path and ½ on r1's. λ = 0.9. A(b0) = 1, A(b1) = 0, A(r0) = 0 + 0.9·½ = 0.45, A(r1) = 0 −
// ½ = −½. ω: roots ½, branches ¼.
#include <Eigen/Dense>
#include <optional>

#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

using Features = Eigen::Matrix<double, 5, 1>;
using Square = Eigen::Matrix<double, 5, 5>;

/// Normal equations of the regression.
struct Fit {
  Square gram = Square::Zero();
  Features moment = Features::Zero();
};

Features features(const Tree& tree, int n) {
  const Node& node = tree.nodes[static_cast<size_t>(n)];
  const Node* before = node.parent < 0 ? nullptr : &tree.nodes[static_cast<size_t>(node.parent)];
  return {1.0, static_cast<double>(node.turn), node.first_entropy,
          before && before->exit_code != 0 ? 1.0 : 0.0, before && before->timed_out ? 1.0 : 0.0};
}

Profile profile() {
  Profile profile;
  profile.weights = {Weight::visitation, Weight::linear, Weight::sqrt, Weight::once};
  profile.values = {Value::hierarchical};
  return profile;
}

class Gae final : public Estimator {
 public:
  explicit Gae(const AdvantageOptions& given) : Estimator("gae", profile(), given) {}

 private:
  Credits credit(const TreeView&, const Batch&) const override { return {}; }

  std::vector<Credits> credits(const Batch& batch) const override {
    std::vector<NodeValues> values;
    std::vector<std::vector<std::optional<double>>> centres;  // per tree and node: c
    std::vector<Fit> fits;
    Fit all;
    for (const TreeView& view : batch.trees)
      values.push_back(node_values(view, view.rewards, value));
    for (size_t t = 0; t < batch.trees.size(); ++t) {
      centres.push_back(centres_of(batch, values, t));
      fits.push_back(fit(batch.trees[t], values[t], centres[t]));
      all.gram += fits[t].gram;
      all.moment += fits[t].moment;
    }
    std::vector<Credits> result;
    for (size_t t = 0; t < batch.trees.size(); ++t) {
      const Square gram = all.gram - fits[t].gram + Square::Identity();
      const Features w = gram.ldlt().solve(all.moment - fits[t].moment);
      result.push_back({.node = advantages(batch.trees[t], centres[t], w)});
    }
    return result;
  }

  static std::vector<std::optional<double>> centres_of(const Batch& batch,
                                                       const std::vector<NodeValues>& values,
                                                       size_t t) {
    const TreeView& view = batch.trees[t];
    std::vector<std::optional<double>> result(view.valid.size());
    for (size_t i = 0; i < result.size(); ++i) {
      const int n = static_cast<int>(i), parent = view.parent(n);
      if (parent >= 0) {
        result[i] = result[static_cast<size_t>(parent)];
        continue;
      }
      std::vector<double> others;
      for (int root : view.roots)
        if (root != n) others.push_back(values[t].node[static_cast<size_t>(root)]);
      for (size_t o = 0; view.roots.size() < 2 && o < values.size(); ++o)
        if (o != t && !batch.trees[o].roots.empty()) others.push_back(values[o].prompt);
      if (!others.empty()) result[i] = mean(others);
    }
    return result;
  }

  static Fit fit(const TreeView& view, const NodeValues& values,
                 const std::vector<std::optional<double>>& centres) {
    Fit fit;
    for (size_t i = 0; i < view.valid.size(); ++i) {
      if (!view.valid[i] || !centres[i]) continue;
      const Features x = features(*view.tree, static_cast<int>(i));
      fit.gram += x * x.transpose();
      fit.moment += x * (values.node[i] - *centres[i]);
    }
    return fit;
  }

  std::vector<double> advantages(const TreeView& view,
                                 const std::vector<std::optional<double>>& centres,
                                 const Features& w) const {
    std::vector<double> worth(view.valid.size(), 0.0), result(view.valid.size(), 0.0);
    for (size_t i = view.valid.size(); i-- > 0;) {
      if (!view.valid[i] || !centres[i]) continue;
      worth[i] = *centres[i] + w.dot(features(*view.tree, static_cast<int>(i)));
      std::vector<double> next, later;
      for (int child : view.children[i]) {
        next.push_back(worth[static_cast<size_t>(child)]);
        later.push_back(result[static_cast<size_t>(child)]);
      }
      const bool leaf = next.empty();
      const double earned =
          leaf ? view.rewards[static_cast<size_t>(view.first_leaf[i])] : mean(next);
      result[i] = earned - worth[i] + options.lambda * mean(later);
    }
    return result;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_gae(const AdvantageOptions& options) {
  return std::make_unique<Gae>(options);
}

}  // namespace espalier::tree
