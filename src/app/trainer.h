// The training loop: roll out → seal → advantages → learn → publish → evaluate → checkpoint.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/checkpoint.h"
#include "app/evaluate.h"
#include "app/progress.h"
#include "app/session.h"
#include "common/metrics.h"
#include "learner/learner.h"
#include "tree/advantage.h"

namespace espalier::app {

/// Seconds by phase. Thread contract: one owner.
class PhaseClock {
 public:
  /// Runs f and adds its wall-clock time to the phase.
  template <class F>
  auto measure(const std::string& phase, F&& f) {
    const Timer timer{*this, phase, std::chrono::steady_clock::now()};
    return f();
  }
  double seconds(const std::string& phase) const;
  nlohmann::json to_json() const { return seconds_; }
  void restore(const nlohmann::json& json);

 private:
  struct Timer {
    PhaseClock& clock;
    std::string phase;
    std::chrono::steady_clock::time_point start;
    ~Timer();
  };
  std::map<std::string, double> seconds_;
};

/// Thread contract: one owner, the main thread.
class Trainer {
 public:
  /// A fresh run in `run`, or one that goes on from its newest checkpoint. Errors: ConfigError,
  /// StoreError, Unsupported.
  Trainer(const common::Config& config, RunDirectory run, bool resume);
  ~Trainer();

  /// The whole run: warm start, evaluation, training, evaluation, summary.json and report.html.
  /// Throws Cancelled on Ctrl-C after saving a checkpoint.
  void run();

  /// Warm start only (`espalier sft`): leaves checkpoint step_000000.
  void run_warm_start();

  /// Trees of trainer.total_steps batches, without learning from them (`espalier rollout`).
  void run_rollouts();

 private:
  void warm_start();
  void train();
  double progress() const;
  void remember_step(uint64_t done);
  std::vector<tree::Tree> roll_out(uint64_t step);
  std::vector<tree::Tree> sealed_before_interruption(uint64_t step) const;
  common::Metrics learn(std::vector<tree::Tree>& trees, uint64_t step);
  nlohmann::json evaluate_both(const std::string& when, common::Metrics& metrics);
  void checkpoint();
  void finish();
  nlohmann::json summary(const nlohmann::json& after) const;

  const common::Config& config_;
  RunDirectory run_;
  PhaseClock clock_;
  RunState state_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<learner::Learner> learner_;
  std::unique_ptr<tree::AdvantageEstimator> estimator_;
  std::unique_ptr<common::MetricsSink> sink_;
  nlohmann::json last_eval_;
  std::optional<Progress> bar_;  // of the training as a whole
  std::optional<uint64_t> saved_step_;
};

}  // namespace espalier::app
