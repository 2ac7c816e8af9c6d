// Evaluation: success on tasks, mean ± standard error, pass@k, by family.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/session.h"

namespace espalier::app {

struct EvalRequest {
  std::vector<std::string> tasks;  // names
  int attempts = 1;                // k: episodes a task
  double temperature = 1.0;        // 0: greedy
  uint64_t step = 0;
  std::string label;  // of the progress bar; empty: none
};

/// Successes of one task's attempts. An attempt without a reward (a typed failure) counts as 0 in
/// the mean, as in Harbor, and is counted apart.
struct TaskScore {
  std::string task, family;
  int failures = 0;
  std::vector<double> rewards;  // one an attempt
};

struct EvalResult {
  std::vector<TaskScore> scores;
  double mean = 0;            // mean over tasks of the task's mean reward
  double standard_error = 0;  // k = 1: sqrt(p(1−p)/n) over tasks; k > 1: sqrt(Σ p̂(1−p̂)/(k−1))/n
  size_t n = 0;               // tasks
  std::vector<double>
      pass_at_k;  // [k−1], unbiased (Chen et al. 2021, eq. 1); binary rewards only, else empty
  size_t failures = 0;

  nlohmann::json to_json() const;  // mean, se, n, pass_at_k, failures, by_family
  std::string table() const;       // by family, for a terminal
};

EvalResult evaluate(Session& session, const EvalRequest& request);

/// Pure part: scores → figures.
EvalResult summarise(std::vector<TaskScore> scores);

/// 1 − C(n−c, k)/C(n, k): the chance that k of n attempts, c of them right, hold a right one.
double pass_at_k(int n, int c, int k);

/// The held-out tasks of a configuration (nursery split `eval`: the same for every run seed).
std::vector<std::string> held_out_tasks(const common::Config& config);

}  // namespace espalier::app
