// Estimators against their formulas (tests/tree/estimator_reference.h), on thousands of random
// trees.
#include <gtest/gtest.h>

#include "tree/estimator_reference.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using testing::Expected;
using testing::random_tree;
using testing::RandomTreeOptions;
using testing::Reference;
using Formula = Expected (*)(const Reference& reference, int node);

constexpr double kTolerance = 1e-9;  // of sums in another order, divided by σ + 1e-6

std::vector<Tree> random_batch(uint64_t number, size_t trees) {
  std::vector<Tree> batch;
  for (size_t i = 0; i < trees; ++i) {
    RandomTreeOptions shape{.max_depth = 4, .max_branches = 3};
    shape.binary_rewards = number % 2 == 0;
    shape.failure_probability = number % 3 == 0 ? 0.4 : 0.1;
    batch.push_back(random_tree(3 * number + i, shape));
    for (Node& node : batch.back().nodes)  // states that come again
      if (number % 5 == 0) node.snapshot = std::to_string(node.command.back() % 3);
  }
  return batch;
}

void compare(const char* name, Formula formula, const AdvantageOptions& options, uint64_t from,
             uint64_t count) {
  const auto estimator = make_estimator(name, options);
  ASSERT_EQ(estimator->name(), name);
  for (uint64_t number = from; number < from + count; ++number) {
    std::vector<Tree> batch = random_batch(number, 1 + number % 3);
    const std::vector<Tree> before = batch;
    estimator->estimate(batch);
    for (size_t t = 0; t < batch.size(); ++t) {
      const Reference reference(before, t, options);
      for (size_t i = 0; i < batch[t].nodes.size(); ++i) {
        const Node& node = batch[t].nodes[i];
        const Expected expected = formula(reference, static_cast<int>(i));
        SCOPED_TRACE(std::string(name) + ", batch " + std::to_string(number) + ", tree " +
                     std::to_string(t) + ", " + node.path + ", weight " + options.weight +
                     ", value " + options.value + ", baseline " + options.baseline + ", sigma " +
                     options.sigma + ", step " + options.step);
        ASSERT_NEAR(node.value, expected.value, kTolerance);
        ASSERT_NEAR(node.advantage, expected.advantage, kTolerance);
        ASSERT_NEAR(node.weight, expected.weight, kTolerance);
        ASSERT_NEAR(node.s_plus, expected.s_plus, kTolerance);
        ASSERT_NEAR(node.s_minus, expected.s_minus, kTolerance);
      }
    }
  }
}

/// The published form on 1000 batches, then every combination of the values a switch may take.
struct Row {
  const char* name;
  Formula formula;
  std::vector<const char*> values, baselines, sigmas, steps;
  bool kappa = false;
};

const std::vector<Row>& rows() {
  using namespace testing;
  static const std::vector<Row> all = {
      {"tree_loo",
       reference_tree_loo,
       {"hierarchical", "leaf", "entropy"},
       {"loo", "mean", "parent"},
       {"off", "prompt", "batch"},
       {"auto"},
       true},
      {"rloo",
       reference_rloo,
       {"leaf", "hierarchical"},
       {"loo", "mean", "parent"},
       {"off", "prompt", "batch"},
       {"auto"}},
      {"grpo",
       reference_grpo,
       {"leaf", "hierarchical"},
       {"mean", "loo", "parent"},
       {"prompt", "off", "batch"},
       {"auto"}},
      {"dr_grpo",
       reference_dr_grpo,
       {"leaf", "hierarchical"},
       {"mean", "loo", "parent"},
       {"off"},
       {"auto"}},
      {"reinforce_pp",
       reference_reinforce_pp,
       {"auto"},
       {"mean", "parent"},
       {"batch", "off", "prompt"},
       {"auto"}},
      {"shepherd",
       reference_shepherd,
       {"auto"},
       {"mean", "loo"},
       {"off", "prompt", "batch"},
       {"auto"},
       true},
      {"tree_grpo", reference_tree_grpo, {"auto"}, {"auto"}, {"prompt", "off", "batch"}, {"auto"}},
      {"treerl",
       reference_treerl,
       {"leaf", "hierarchical"},
       {"loo", "mean"},
       {"off", "prompt", "batch"},
       {"segment", "turn"}},
      {"treepo", reference_treepo, {"auto"}, {"auto"}, {"batch", "off"}, {"auto"}},
      {"treerpo",
       reference_treerpo,
       {"hierarchical", "leaf", "entropy"},
       {"mean", "loo", "parent"},
       {"off", "prompt", "batch"},
       {"segment", "turn"},
       true},
      {"diff_parent",
       reference_diff_parent,
       {"leaf", "hierarchical", "entropy"},
       {"parent", "mean", "loo"},
       {"off", "parent", "prompt", "batch"},
       {"segment", "turn"},
       true},
      {"node_value",
       reference_node_value,
       {"leaf", "hierarchical", "entropy"},
       {"auto"},
       {"prompt", "off", "batch"},
       {"auto"}},
      {"gigpo",
       reference_gigpo,
       {"leaf", "hierarchical"},
       {"mean", "loo"},
       {"prompt", "off", "batch"},
       {"auto"}}};
  return all;
}

class EstimatorFormula : public ::testing::TestWithParam<size_t> {};

TEST_P(EstimatorFormula, HoldsAsPublished) {
  const Row& row = rows()[GetParam()];
  compare(row.name, row.formula, {}, 0, 600);
}

TEST_P(EstimatorFormula, HoldsUnderEverySwitch) {
  const Row& row = rows()[GetParam()];
  uint64_t number = 10000;
  for (const char* value : row.values)
    for (const char* baseline : row.baselines)
      for (const char* sigma : row.sigmas)
        for (const char* step : row.steps)
          for (const char* weight : {"visitation", "linear", "sqrt", "once"}) {
            AdvantageOptions options;
            options.value = value;
            options.baseline = baseline;
            options.sigma = sigma;
            options.step = step;
            options.weight = weight;
            options.kappa = row.kappa && number % 2 == 0 ? 1.5 : 0;
            options.gamma = number % 3 == 0 ? 0.9 : 1;
            options.step_weight = 0.7;
            compare(row.name, row.formula, options, number, 7);
            number += 7;
          }
}

INSTANTIATE_TEST_SUITE_P(All, EstimatorFormula, ::testing::Range(size_t{0}, rows().size()),
                         [](const auto& info) { return std::string(rows()[info.param].name); });

TEST(EstimatorFormula, EveryEstimatorHasAReference) {
  std::vector<std::string> names;
  for (const Row& row : rows()) names.emplace_back(row.name);
  names.emplace_back("gae");  // below
  for (const std::string& name : estimator_names())
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
}

// gae: the critic's least squares by elimination, and A as a sum of δ over all that lies below.

using Row5 = std::array<double, 5>;

Row5 state(const Tree& tree, int n) {
  const Node& node = tree.nodes[n];
  const Node* before = node.parent < 0 ? nullptr : &tree.nodes[node.parent];
  return {1.0, static_cast<double>(node.turn), node.first_entropy,
          before && before->exit_code ? 1.0 : 0.0, before && before->timed_out ? 1.0 : 0.0};
}

/// (XᵀX + 1)·w = Xᵀy, by Gauss–Jordan.
Row5 ridge(const std::vector<Row5>& x, const std::vector<double>& y) {
  std::array<std::array<double, 6>, 5> a{};
  for (size_t i = 0; i < 5; ++i) a[i][i] = 1;
  for (size_t r = 0; r < x.size(); ++r)
    for (size_t i = 0; i < 5; ++i) {
      for (size_t j = 0; j < 5; ++j) a[i][j] += x[r][i] * x[r][j];
      a[i][5] += x[r][i] * y[r];
    }
  for (size_t i = 0; i < 5; ++i) {
    const double pivot = a[i][i];
    for (double& entry : a[i]) entry /= pivot;
    for (size_t other = 0; other < 5; ++other) {
      const double factor = a[other][i];
      for (size_t j = 0; other != i && j < 6; ++j) a[other][j] -= factor * a[i][j];
    }
  }
  return {a[0][5], a[1][5], a[2][5], a[3][5], a[4][5]};
}

class GaeReference {
 public:
  GaeReference(const std::vector<Tree>& batch, const AdvantageOptions& options)
      : batch_(batch), options_(options) {}

  /// c of a node's root; NaN: none.
  double centre(size_t t, int n) const {
    const Reference r(batch_, t, options_);
    while (r.parent(n) >= 0) n = r.parent(n);
    std::vector<double> others;
    for (int root : r.children(-1))
      if (root != n) others.push_back(r.V(root, "hierarchical"));
    for (size_t o = 0; r.children(-1).size() < 2 && o < batch_.size(); ++o) {
      const Reference other(batch_, o, options_);
      if (o != t && !other.leaves().empty()) others.push_back(other.V(-1, "hierarchical"));
    }
    return others.empty() ? std::nan("") : Reference::average(others);
  }

  std::vector<double> advantages(size_t t) const {
    std::vector<Row5> x;
    std::vector<double> y;
    for (size_t o = 0; o < batch_.size(); ++o) {
      const Reference other(batch_, o, options_);
      for (size_t i = 0; o != t && i < batch_[o].nodes.size(); ++i) {
        const int n = static_cast<int>(i);
        if (other.below(n).empty() || std::isnan(centre(o, n))) continue;
        x.push_back(state(batch_[o], n));
        y.push_back(other.V(n, "hierarchical") - centre(o, n));
      }
    }
    const Row5 w = ridge(x, y);
    const Reference r(batch_, t, options_);
    auto V = [&](int n) {
      const Row5 s = state(batch_[t], n);
      double sum = centre(t, n);
      for (size_t i = 0; i < 5; ++i) sum += w[i] * s[i];
      return sum;
    };
    std::vector<double> result(batch_[t].nodes.size(), 0.0);
    for (size_t i = 0; i < result.size(); ++i) {
      for (size_t j = i; j < result.size(); ++j) {
        int m = static_cast<int>(j), n = static_cast<int>(i);
        if (r.below(m).empty() || !r.above(n, m) || std::isnan(centre(t, n))) continue;
        double share = 1;
        for (int a = m; a != n; a = r.parent(a))
          share *= options_.lambda / static_cast<double>(r.siblings(a).size());
        const auto below = r.children(m);
        double next = below.empty() ? r.reward(m) : 0;
        for (int c : below) next += V(c) / static_cast<double>(below.size());
        result[i] += share * (next - V(m));
      }
      result[i] *= std::pow(options_.gamma, -batch_[t].nodes[i].turn);
    }
    return result;
  }

 private:
  const std::vector<Tree>& batch_;
  AdvantageOptions options_;
};

TEST(EstimatorFormula, GaeHolds) {
  for (uint64_t number = 0; number < 500; ++number) {
    AdvantageOptions options;
    options.lambda = number % 2 == 0 ? 0.95 : 0.5;
    options.gamma = number % 3 == 0 ? 0.9 : 1;
    std::vector<Tree> batch = random_batch(number, 1 + number % 4);
    const std::vector<Tree> before = batch;
    make_estimator("gae", options)->estimate(batch);
    const GaeReference reference(before, options);
    for (size_t t = 0; t < batch.size(); ++t) {
      const auto expected = reference.advantages(t);
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(batch[t].nodes[i].advantage, expected[i], 1e-8)
            << "batch " << number << ", tree " << t << ", " << batch[t].nodes[i].path;
    }
  }
}

}  // namespace
}  // namespace espalier::tree
