// The training loop: roll out → seal → advantages → learn → publish → evaluate → checkpoint.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/evaluate.h"
#include "app/progress.h"
#include "app/run_start.h"
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
  /// Errors: StoreError (another process has the run, …), Unsupported.
  explicit Trainer(RunStart start);
  ~Trainer();

  /// The whole run: warm start, evaluation, training, evaluation, summary.json and report.html.
  /// On Ctrl-C saves a checkpoint, says how to go on, and throws Cancelled.
  void run();

  /// Warm start only (`espalier sft`): leaves checkpoint step_000000.
  void run_warm_start();

  /// Trees of trainer.total_steps batches, without learning from them (`espalier rollout`).
  void run_rollouts();

 private:
  void go_on_from(const Checkpoint& checkpoint);
  void warm_start();
  std::vector<tree::Tree> demonstrations();
  void train();
  void train_step();
  void close_step();
  bool out_of_work() const;
  double progress() const;
  void remember_step(uint64_t done);
  std::vector<tree::Tree> roll_out(uint64_t step);
  std::vector<tree::Tree> sealed_before_interruption(uint64_t step) const;
  common::Metrics learn(std::vector<tree::Tree>& trees, uint64_t step);
  nlohmann::json evaluate_both(const std::string& when, common::Metrics& metrics);
  void checkpoint();
  void note_estimates(const tree::Tree& tree);
  void append(tree::Event event);
  void note(tree::EventType type, uint64_t tree_index, const nlohmann::json& detail);
  void finish();
  nlohmann::json summary() const;

  const common::Config config_;
  RunDirectory run_;
  PhaseClock clock_;
  RunState state_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<learner::Learner> learner_;
  std::unique_ptr<tree::AdvantageEstimator> estimator_;
  std::unique_ptr<common::MetricsSink> sink_;
  std::optional<Progress> bar_;  // of the training as a whole
  double reward_ = 0;            // mean of the newest step
  uint64_t total_steps_ = 0;
  std::optional<uint64_t> resumed_step_;
  bool warm_ = false;   // the warm start is over
  bool saved_ = false;  // a checkpoint holds the present state
};

}  // namespace espalier::app
