// Which estimator to trust under which fork rule: bias, signal-to-noise and direction against exact
// gradients. Figures of `espalier bench estimators`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace espalier::tree {

struct EstimatorBench {
  int worlds = 24;    // each: some prompts of one random shape, with a policy of their own
  int prompts = 4;    // a step: one tree of each
  int steps = 1000;   // measured, a world and rule
  int roots = 8;      // G
  int branches = 2;   // K
  int max_forks = 4;  // a tree
  uint64_t seed = 1;
  /// Names, each with switches if need be ("tree_loo:kappa=2"); empty: all, and two variants.
  std::vector<std::string> estimators = {};
  std::vector<std::string> rules = {};  // empty: all that need no server
  /// Called with the share done; returns false to stop early.
  std::function<bool(double)> progress = {};
};

/// Over worlds; g: the exact gradient, ĝ: one step's estimate, u = g/‖g‖.
struct EstimatorFigures {
  std::string estimator, rule;
  bool stopping_time = true, credits_prefix = true;
  double bias = 0;  // √ of mean ‖E ĝ − u·(u·E ĝ)‖² / (u·E ĝ)²: the part of E ĝ that no scale cures
  double bias_low = 0, bias_high = 0;  // 95 % confidence
  double snr = 0;  // (u·E ĝ)² / tr Var ĝ an environment step, over that of flat leave-one-out
  double snr_se = 0;  // standard error over worlds
  double cosine = 0;  // mean of cos(ĝ, g)
  double scale = 0;   // mean of (u·E ĝ)/‖g‖
  double steps_per_tree = 0;
  double mixed_forks = 0;  // share of forks whose children's values differ
};

/// Flat leave-one-out has, in each world and for each rule, the number of roots that takes as many
/// environment steps. Deterministic. Errors: ConfigError for an unknown name.
std::vector<EstimatorFigures> bench_estimators(const EstimatorBench& options);

}  // namespace espalier::tree
