#include "tree/estimators/estimator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/error.h"

namespace espalier::tree {
namespace {

/// Fewer rewards than this make no σ of their own: the prompt's is taken.
constexpr int kLeastForSigma = 6;

template <class T>
using Names = std::vector<std::pair<const char*, T>>;

const Names<Weight>& names(Weight) {
  static const Names<Weight> all = {{"visitation", Weight::visitation},
                                    {"linear", Weight::linear},
                                    {"sqrt", Weight::sqrt},
                                    {"once", Weight::once}};
  return all;
}
const Names<Value>& names(Value) {
  static const Names<Value> all = {
      {"leaf", Value::leaf}, {"hierarchical", Value::hierarchical}, {"entropy", Value::entropy}};
  return all;
}
const Names<Baseline>& names(Baseline) {
  static const Names<Baseline> all = {
      {"loo", Baseline::loo}, {"mean", Baseline::mean}, {"parent", Baseline::parent}};
  return all;
}
const Names<Sigma>& names(Sigma) {
  static const Names<Sigma> all = {{"off", Sigma::off},
                                   {"prompt", Sigma::prompt},
                                   {"batch", Sigma::batch},
                                   {"parent", Sigma::parent}};
  return all;
}
const Names<Step>& names(Step) {
  static const Names<Step> all = {{"segment", Step::segment}, {"turn", Step::turn}};
  return all;
}

void refuse(const std::string& estimator, const std::string& field, const std::string& seen,
            const std::string& allowed) {
  throw common::ConfigError("advantage estimator " + estimator + ": " + field + " = " + seen +
                            "; allowed: " + allowed);
}

template <class T>
T choose(const std::string& estimator, const std::string& field, const std::string& seen,
         const std::vector<T>& allowed, T otherwise) {
  if (seen == "auto") return allowed.empty() ? otherwise : allowed.front();
  std::string listed = "auto";
  for (T value : allowed) {
    for (const auto& [name, named] : names(T{})) {
      if (named != value) continue;
      if (seen == name) return value;
      listed += ", " + std::string(name);
    }
  }
  refuse(estimator, field, "'" + seen + "'", listed);
  return otherwise;
}

}  // namespace

Estimator::Estimator(const char* name, const Profile& profile, const AdvantageOptions& given)
    : weight(choose(name, "weight", given.weight, profile.weights, Weight::linear)),
      value(choose(name, "value", given.value, profile.values, Value::leaf)),
      baseline(choose(name, "baseline", given.baseline, profile.baselines, Baseline::mean)),
      sigma(choose(name, "sigma", given.sigma, profile.sigmas, Sigma::off)),
      step(choose(name, "step", given.step, profile.steps, Step::segment)),
      options(given),
      name_(name),
      credits_prefix_(profile.credits_prefix) {
  auto require = [&](bool holds, const char* field, double seen, const char* allowed) {
    if (!holds) refuse(name, field, std::to_string(seen), allowed);
  };
  require(given.kappa == 0 || (profile.kappa && given.kappa > 0), "kappa", given.kappa,
          profile.kappa ? "0 and more" : "0: it compares no siblings");
  require(given.gamma > 0 && given.gamma <= 1, "gamma", given.gamma, "more than 0, up to 1");
  require(given.lambda >= 0 && given.lambda <= 1, "lambda", given.lambda, "0 to 1");
  require(given.epsilon >= 0, "epsilon", given.epsilon, "0 and more");
}

std::vector<Credits> Estimator::credits(const Batch& batch) const {
  std::vector<Credits> all;
  for (const TreeView& view : batch.trees) all.push_back(credit(view, batch));
  return all;
}

void Estimator::estimate(std::span<Tree> trees) const {
  Batch batch;
  for (const Tree& tree : trees) {
    batch.trees.emplace_back(tree, options.gamma);
    const auto& rewards = batch.trees.back().rewards;
    batch.rewards.insert(batch.rewards.end(), rewards.begin(), rewards.end());
  }
  const std::vector<Credits> all = credits(batch);
  for (size_t i = 0; i < trees.size(); ++i) finish(batch.trees[i], batch, all[i], trees[i]);
}

double Estimator::sibling_advantage(const TreeView& view, const NodeValues& values, int b) const {
  const std::vector<int>& group = view.siblings(b);
  if (group.size() < 2) return 0;
  auto against = [&](const std::vector<int>& members, int node, double parent_value) {
    std::vector<double> earned;
    size_t own = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      if (members[i] == node) own = i;
      earned.push_back(values.node[static_cast<size_t>(members[i])]);
    }
    if (baseline == Baseline::loo) return leave_one_out(earned, own);
    return earned[own] - (baseline == Baseline::mean ? mean(earned) : parent_value);
  };
  const int parent = view.parent(b);
  const double parent_value = parent < 0 ? values.prompt : values.node[static_cast<size_t>(parent)];
  const double own = against(group, b, parent_value);
  if (options.kappa == 0 || parent < 0 || view.roots.size() < 2) return own;
  int root = b;
  while (view.parent(root) >= 0) root = view.parent(root);
  // The roots' baseline of this root, taken from v_b itself.
  const double root_value = values.node[static_cast<size_t>(root)];
  const double roots_baseline = root_value - against(view.roots, root, values.prompt);
  const double k = static_cast<double>(group.size()) - (baseline == Baseline::loo ? 1 : 0);
  const double trust = k / (k + options.kappa);
  return trust * own + (1 - trust) * (values.node[static_cast<size_t>(b)] - roots_baseline);
}

std::vector<double> Estimator::sibling_advantages(const TreeView& view,
                                                  const NodeValues& values) const {
  std::vector<double> result(view.valid.size(), 0.0);
  for (size_t i = 0; i < result.size(); ++i) {
    const int b = view.valid[i] ? step_of(view, static_cast<int>(i)) : -1;
    if (b >= 0) result[i] = sibling_advantage(view, values, b);
  }
  return result;
}

double Estimator::divisor(const TreeView& view, const Batch& batch, int n) const {
  switch (sigma) {
    case Sigma::off:
      return 1;
    case Sigma::batch:
      return deviation(batch.rewards) + options.epsilon;
    case Sigma::parent:
      if (const int parent = view.parent(step_of(view, n) < 0 ? n : step_of(view, n));
          parent >= 0 && view.leaf_count(parent) >= kLeastForSigma)
        return deviation(view.rewards_below(parent)) + options.epsilon;
      break;
    case Sigma::prompt:
      break;
  }
  return deviation(view.rewards) + options.epsilon;
}

std::vector<double> Estimator::visits(const TreeView& view) {
  std::vector<double> result(view.valid.size(), 0.0);
  for (size_t i = 0; i < result.size(); ++i) {
    if (!view.valid[i]) continue;
    const int n = static_cast<int>(i), parent = view.parent(n);
    const double above = parent < 0 ? 1.0 : result[static_cast<size_t>(parent)];
    result[i] = above / static_cast<double>(view.siblings(n).size());
  }
  return result;
}

double Estimator::node_weight(const TreeView& view, int n, double visit) const {
  const double count = view.leaf_count(n), all = static_cast<double>(view.leaves.size());
  switch (weight) {
    case Weight::visitation:
      return visit;
    case Weight::linear:
      return count / all;
    case Weight::sqrt:
      return std::sqrt(count) / all;
    case Weight::once:
      break;
  }
  return 1 / all;
}

void Estimator::finish(const TreeView& view, const Batch& batch, const Credits& credits,
                       Tree& tree) const {
  const NodeValues values = node_values(view, view.rewards, value);
  const std::vector<double> visit = visits(view);
  const bool per_node = !credits.normalised && sigma == Sigma::parent;
  const double common = credits.normalised || per_node ? 1 : divisor(view, batch, 0);
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    Node& node = tree.nodes[i];
    node.value = node.advantage = node.weight = node.s_plus = node.s_minus = 0.0;
    node.leaf_credits.clear();
    if (!view.valid[i]) continue;
    const int n = static_cast<int>(i);
    const double seen_from_here = std::pow(options.gamma, -node.turn);
    const double divide_by = per_node ? divisor(view, batch, n) : common;
    const double own = credits.node.empty() ? 0.0 : credits.node[i];
    node.value = seen_from_here * values.node[i];
    node.weight = node_weight(view, n, visit[i]);
    auto advantage = [&](int l) {
      const double leaf = credits.leaf.empty() ? 0.0 : credits.leaf[static_cast<size_t>(l)];
      return seen_from_here * ((leaf + own) / divide_by);
    };
    auto share = [&](int l) {  // of ω, that leaf l stands for
      return weight == Weight::visitation ? visit[view.leaves[static_cast<size_t>(l)]]
                                          : node.weight / view.leaf_count(n);
    };
    if (credits.leaf.empty() || view.leaf_count(n) == 1) {
      node.advantage = advantage(view.first_leaf[i]);
      node.s_plus = std::max(node.weight * node.advantage, 0.0);
      node.s_minus = std::min(node.weight * node.advantage, 0.0);
      for (int l = view.first_leaf[i]; l < view.end_leaf[i]; ++l)
        node.leaf_credits.push_back(share(l) * node.advantage);
      continue;
    }
    for (int l = view.first_leaf[i]; l < view.end_leaf[i]; ++l) {
      const double a = advantage(l);
      (a > 0 ? node.s_plus : node.s_minus) += share(l) * a;
      node.leaf_credits.push_back(share(l) * a);
    }
    node.advantage = (node.s_plus + node.s_minus) / node.weight;
  }
}

std::vector<double> leaf_advantages(const TreeView& view, Value value, Baseline baseline) {
  std::vector<double> result;
  const NodeValues values = node_values(view, view.rewards, value);
  for (size_t l = 0; l < view.leaves.size(); ++l) {
    const double reward = view.rewards[l];
    if (baseline != Baseline::loo) {
      result.push_back(reward - values.prompt);
      continue;
    }
    if (value == Value::leaf) {
      result.push_back(leave_one_out(view.rewards, l));
      continue;
    }
    double sum = 0;  // over the other roots, which this leaf's actions cannot touch
    for (int root : view.roots) {
      const bool own =
          view.first_leaf[root] <= static_cast<int>(l) && static_cast<int>(l) < view.end_leaf[root];
      if (!own) sum += reward - values.node[static_cast<size_t>(root)];
    }
    result.push_back(view.roots.size() < 2 ? 0 : sum / static_cast<double>(view.roots.size() - 1));
  }
  return result;
}

}  // namespace espalier::tree
