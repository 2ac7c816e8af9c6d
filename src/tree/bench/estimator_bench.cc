#include "tree/bench/estimator_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>

#include "common/error.h"
#include "tree/advantage.h"
#include "tree/bench/simulate.h"

namespace espalier::tree {
namespace {

constexpr int kWarmUp = 40;  // steps in which rules fill their running estimates

/// Prompts of one step, their parameters side by side.
struct World {
  std::vector<Mdp> mdps;
  Eigen::VectorXd gradient;  // exact, a prompt's share

  World(const EstimatorBench& options, int number) {
    common::Rng rng(
        common::derive_key(options.seed, "bench estimators", "world " + std::to_string(number)));
    MdpShape shape;
    shape.depth = static_cast<int>(rng.range(3, 6));
    shape.actions = static_cast<int>(rng.range(2, 4));
    shape.states = static_cast<int>(rng.range(4, 8));
    shape.sparsity = 0.4 + 0.5 * rng.uniform();
    shape.noise = 0.4 * rng.uniform();
    shape.sharpness = 0.5 + rng.uniform();
    for (int i = 0; i < options.prompts; ++i) mdps.emplace_back(shape, rng);
    gradient.resize(mdps.front().parameters() * options.prompts);
    for (int i = 0; i < options.prompts; ++i)
      gradient.segment(i * mdps[0].parameters(), mdps[0].parameters()) =
          mdps[static_cast<size_t>(i)].exact_gradient();
  }
};

/// Moments of one estimator's ĝ in one world.
class Moments {
 public:
  explicit Moments(const Eigen::VectorXd& gradient)
      : unit_(gradient.normalized()),
        length_(gradient.norm()),
        sum_(Eigen::VectorXd::Zero(gradient.size())) {}

  void add(const Eigen::VectorXd& estimate) {
    const double squares = estimate.squaredNorm(), along = unit_.dot(estimate);
    sum_ += estimate;
    squares_ += squares;
    along_ += along;
    along_squares_ += along * along;
    cosines_ += squares > 0 ? along / std::sqrt(squares) : 0;
    ++count_;
  }

  double signal() const { return along_ / count_; }
  /// Unbiased: what sampling adds to the square of a mean is taken off.
  double signal_squared() const { return signal() * signal() - variance_along() / count_; }
  double off_squared() const {
    const double off = (sum_ / count_).squaredNorm() - signal() * signal();
    return off - (variance() - variance_along()) / count_;
  }
  double variance() const { return (squares_ - sum_.squaredNorm() / count_) / (count_ - 1); }
  double cosine() const { return cosines_ / count_; }
  double scale() const { return signal() / length_; }

 private:
  double variance_along() const {
    return (along_squares_ - along_ * along_ / count_) / (count_ - 1);
  }

  Eigen::VectorXd unit_;
  double length_;
  Eigen::VectorXd sum_;
  double squares_ = 0, along_ = 0, along_squares_ = 0, cosines_ = 0, count_ = 0;
};

/// Mean and standard error over worlds.
class Spread {
 public:
  void add(double value) { values_.push_back(value); }
  double mean() const {
    double sum = 0;
    for (double value : values_) sum += value;
    return sum / static_cast<double>(values_.size());
  }
  double error() const {
    double squares = 0;
    for (double value : values_) squares += (value - mean()) * (value - mean());
    const double n = static_cast<double>(values_.size());
    return n < 2 ? 0 : std::sqrt(squares / (n - 1) / n);
  }

 private:
  std::vector<double> values_;
};

/// "name" or "name:switch=value:…".
std::unique_ptr<AdvantageEstimator> estimator_of(const std::string& spec) {
  std::stringstream parts(spec);
  std::string name, part;
  std::getline(parts, name, ':');
  AdvantageOptions options;
  const std::map<std::string, std::string*> texts = {{"weight", &options.weight},
                                                     {"value", &options.value},
                                                     {"baseline", &options.baseline},
                                                     {"sigma", &options.sigma},
                                                     {"step", &options.step}};
  const std::map<std::string, double*> numbers = {{"kappa", &options.kappa},
                                                  {"gamma", &options.gamma},
                                                  {"lambda", &options.lambda},
                                                  {"step_weight", &options.step_weight}};
  while (std::getline(parts, part, ':')) {
    const size_t at = std::min(part.find('='), part.size());
    const std::string key = part.substr(0, at), value = part.substr(std::min(at + 1, part.size()));
    if (texts.contains(key)) {
      *texts.at(key) = value;
      continue;
    }
    char* end = nullptr;
    const double number = std::strtod(value.c_str(), &end);
    if (!numbers.contains(key) || value.empty() || *end != 0)
      throw common::ConfigError("bench estimators: '" + part + "' of '" + spec +
                                "' is no switch=value; as in tree_loo:kappa=2");
    *numbers.at(key) = number;
  }
  return make_estimator(name, options);
}

struct Arm {
  Spread bias_squared, snr, cosine, scale, steps, mixed;
};

class Bench {
 public:
  explicit Bench(EstimatorBench options) : options_(std::move(options)) {
    if (options_.estimators.empty()) {
      options_.estimators = estimator_names();
      for (const char* variant : {"tree_loo:kappa=2", "rloo:value=hierarchical"})
        options_.estimators.emplace_back(variant);
    }
    if (options_.rules.empty())
      for (const std::string& name : fork_rule_names())
        if (name != "meta_agent") options_.rules.push_back(name);
    for (const std::string& name : options_.estimators) estimators_.push_back(estimator_of(name));
    arms_.resize(options_.rules.size() * options_.estimators.size());
  }

  std::vector<EstimatorFigures> run() {
    const double all = static_cast<double>(options_.worlds) * options_.rules.size();
    for (int w = 0; w < options_.worlds; ++w) {
      const World world(options_, w);
      for (size_t r = 0; r < options_.rules.size(); ++r) {
        measure(world, w, r);
        const double done = (w * static_cast<double>(options_.rules.size()) + r + 1) / all;
        if (options_.progress && !options_.progress(done)) return figures();
      }
    }
    return figures();
  }

 private:
  std::unique_ptr<ForkRule> rule(const std::string& name) const {
    ForkRuleOptions rules;
    rules.branches = options_.branches;
    rules.max_forks_per_tree = options_.max_forks;
    return make_fork_rule(name, rules);
  }

  struct Sampled {
    std::vector<Moments> moments;  // an estimator
    double steps = 0;              // a tree
    double forks = 0, mixed = 0;
  };

  Sampled sample(const World& world, const std::string& rule_name, int roots, common::Rng& rng,
                 const std::vector<const AdvantageEstimator*>& estimators) const {
    Sampled sampled;
    sampled.moments.assign(estimators.size(), Moments(world.gradient));
    const auto rule = this->rule(rule_name);
    const int size = world.mdps.front().parameters();
    for (int step = -kWarmUp; step < options_.steps; ++step) {
      std::vector<Tree> trees;
      for (size_t i = 0; i < world.mdps.size(); ++i) {
        SimulatedTree grown =
            simulate_tree(world.mdps[i], roots, *rule, rng, "mdp/" + std::to_string(i));
        if (step >= 0) sampled.steps += grown.steps;
        trees.push_back(std::move(grown.tree));
      }
      for (size_t e = 0; step >= 0 && e < estimators.size(); ++e) {
        estimators[e]->estimate(trees);
        Eigen::VectorXd estimate = Eigen::VectorXd::Zero(world.gradient.size());
        for (size_t i = 0; i < trees.size(); ++i)
          add_gradient(world.mdps[i], trees[i], estimate, static_cast<int>(i) * size);
        sampled.moments[e].add(estimate);
      }
      if (step >= 0) count_forks(trees, sampled);
      rule->observe(trees);
    }
    sampled.steps /= static_cast<double>(options_.steps) * static_cast<double>(world.mdps.size());
    return sampled;
  }

  static void count_forks(const std::vector<Tree>& trees, Sampled& sampled) {
    for (const Tree& tree : trees) {
      std::vector<double> sum(tree.nodes.size(), 0), leaves(tree.nodes.size(), 0);
      const auto children = tree.children();
      for (size_t i = tree.nodes.size(); i-- > 0;) {
        const Node& node = tree.nodes[i];
        if (node.reward) {
          sum[i] = *node.reward;
          leaves[i] = 1;
        }
        if (children[i].size() > 1) {
          sampled.forks += 1;
          sampled.mixed += sum[i] > 0 && sum[i] < leaves[i] ? 1 : 0;
        }
        if (node.parent < 0) continue;
        sum[static_cast<size_t>(node.parent)] += sum[i];
        leaves[static_cast<size_t>(node.parent)] += leaves[i];
      }
    }
  }

  void measure(const World& world, int number, size_t r) {
    common::Rng rng(common::derive_key(options_.seed, "bench estimators " + options_.rules[r],
                                       "samples " + std::to_string(number)));
    std::vector<const AdvantageEstimator*> all;
    for (const auto& estimator : estimators_) all.push_back(estimator.get());
    const Sampled sampled = sample(world, options_.rules[r], options_.roots, rng, all);
    const auto rloo = make_estimator("rloo", {});
    const int depth = world.mdps.front().shape().depth;
    const int flat_roots = std::max(2, static_cast<int>(std::lround(sampled.steps / depth)));
    const Sampled flat = sample(world, "none", flat_roots, rng, {rloo.get()});
    const double flat_snr =
        flat.moments[0].signal_squared() / flat.moments[0].variance() / flat.steps;
    for (size_t e = 0; e < all.size(); ++e) {
      const Moments& moments = sampled.moments[e];
      Arm& arm = arms_[r * all.size() + e];
      arm.bias_squared.add(moments.off_squared() / (moments.signal() * moments.signal()));
      arm.snr.add(moments.signal_squared() / moments.variance() / sampled.steps / flat_snr);
      arm.cosine.add(moments.cosine());
      arm.scale.add(moments.scale());
      arm.steps.add(sampled.steps);
      arm.mixed.add(sampled.forks > 0 ? sampled.mixed / sampled.forks : 0);
    }
  }

  std::vector<EstimatorFigures> figures() const {
    std::vector<EstimatorFigures> result;
    for (size_t r = 0; r < options_.rules.size(); ++r) {
      const auto rule = this->rule(options_.rules[r]);
      for (size_t e = 0; e < estimators_.size(); ++e) {
        const Arm& arm = arms_[r * estimators_.size() + e];
        auto root = [](double square) { return std::sqrt(std::max(square, 0.0)); };
        const double mean = arm.bias_squared.mean(), wide = 1.96 * arm.bias_squared.error();
        EstimatorFigures figures;
        figures.estimator = options_.estimators[e];
        figures.rule = rule->name();
        figures.stopping_time = rule->stopping_time();
        figures.credits_prefix = estimators_[e]->credits_prefix();
        figures.bias = root(mean);
        figures.bias_low = root(mean - wide);
        figures.bias_high = root(mean + wide);
        figures.snr = arm.snr.mean();
        figures.snr_se = arm.snr.error();
        figures.cosine = arm.cosine.mean();
        figures.scale = arm.scale.mean();
        figures.steps_per_tree = arm.steps.mean();
        figures.mixed_forks = arm.mixed.mean();
        result.push_back(figures);
      }
    }
    return result;
  }

  EstimatorBench options_;
  std::vector<std::unique_ptr<AdvantageEstimator>> estimators_;
  std::vector<Arm> arms_;  // rule · estimators + estimator
};

}  // namespace

std::vector<EstimatorFigures> bench_estimators(const EstimatorBench& options) {
  return Bench(options).run();
}

}  // namespace espalier::tree
