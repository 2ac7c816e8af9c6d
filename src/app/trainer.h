// The training loop: roll out → seal → advantages → learn → publish → evaluate → checkpoint.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/evaluate.h"
#include "app/phase_clock.h"
#include "app/progress.h"
#include "app/run_start.h"
#include "app/tree_source.h"
#include "common/metrics.h"
#include "learner/learner.h"
#include "tree/advantage.h"

namespace espalier::app {

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
  std::vector<const tree::Tree*> shown_beside(uint64_t step) const;
  void prepare_loss();
  void train();
  void train_step();
  bool goes_ahead(uint64_t step) const;
  bool pauses_after(uint64_t done) const;
  void close_step();
  bool out_of_work() const;
  double progress() const;
  void note_rolled_out();
  void remember_step(uint64_t done);
  void publish(uint64_t version);
  tree::Ledger spent() const;
  std::string budget() const;
  void skipped(uint64_t step, const std::vector<tree::Tree>& trees, const std::string& parameter);
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
  std::unique_ptr<CheckpointWriter> writer_;
  std::optional<Progress> bar_;             // of the training as a whole
  std::unique_ptr<TreeSource> source_;      // ticks the bar: goes first
  std::atomic<double> reward_ = 0;          // mean of the newest step
  std::vector<tree::Tree> demonstrations_;  // cloned beside RL
  uint64_t total_steps_ = 0;
  policy::WeightsPtr published_;  // what is rolled out with
  // When the newest step's trees were there; what is rolled out ahead of it is not in them.
  tree::Spend spent_;
  std::string rule_state_;
  tree::Spend learnt_;         // by the newest update, not in the session's ledger yet
  std::string bad_parameter_;  // of the newest step that was skipped
  bool resumed_ = false;       // from a checkpoint
  bool warm_ = false;          // the warm start is over
  bool saved_ = false;         // a checkpoint holds the present state
};

}  // namespace espalier::app
