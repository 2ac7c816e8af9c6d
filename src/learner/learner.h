// The learner: sealed trees in, new weights out. No torch in this header.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/metrics.h"
#include "policy/policy.h"
#include "tree/trace_tree.h"

namespace espalier::learner {

struct LearnerOptions {
  common::LearnerConfig learner;  // loss, packing, optimizer of RL
  common::OptimConfig sft_optim;  // optimizer of the warm start
  int total_steps = 1;            // for schedules
  int sft_steps = 1;
  std::string device = "auto";
  uint64_t seed = 1;  // of fresh adapters
};

/// What a batch cost, for the ledger.
struct UpdateResult {
  common::Metrics metrics;      // actor/pg_loss, actor/ppo_kl, actor/pg_clipfrac, actor/entropy,
                                // actor/grad_norm, actor/lr, training/rollout_probs_diff_mean, …
  uint64_t tokens_packed = 0;   // computed once each
  uint64_t tokens_linear = 0;   // what the linearised batch holds
  uint64_t tokens_trained = 0;  // forward and backward passes made, demonstrations among them
  int updates = 0;              // of the optimizer
  /// Not empty: an update was left out because its loss or gradient was not finite. The first
  /// parameter, by name, with such a gradient; "the loss" when the gradients are finite.
  std::string bad;
};

/// Thread contract: one owner. Deterministic: the same trees in the same order give the same
/// weights, bit for bit, for a fixed number of torch threads.
class Learner {
 public:
  /// Starts from `weights` (copied; fp32 masters).
  Learner(policy::WeightsPtr weights, const LearnerOptions& options);
  ~Learner();

  /// One RL update on trees whose advantages are set (tree/advantage.h). step counts from 0.
  /// Each optimizer update also clones `demonstrations`, weighed by sft_coef (sft/loss).
  UpdateResult update(const std::vector<tree::Tree>& trees, int step,
                      const std::vector<const tree::Tree*>& demonstrations = {});

  /// One behaviour-cloning update: mean negative log-likelihood of the trees' action tokens with
  /// loss_mask 1, on the same packed path; what trees have in common at the front is computed once
  /// (merge_paths.h). Returns metrics sft/loss, sft/lr, sft/grad_norm.
  UpdateResult sft_update(const std::vector<const tree::Tree*>& trees, int step);

  /// Forgets optimizer state (between the warm start and RL).
  void reset_optimizer();

  /// The policy that kl_loss_coef keeps the weights near: these, until it is called again. Without
  /// a divergence in the loss it does nothing.
  void set_reference(const policy::WeightsPtr& weights);

  /// An immutable copy of the current weights, adapters merged, to publish or save.
  policy::WeightsPtr weights() const;

  /// A copy of optimizer moments and step counters, that any thread can write later to a directory:
  /// optimizer.safetensors and, with learner.lora, adapter/ in PEFT's form; weights are saved by
  /// policy/weights.h. A learner with adapters goes on from the weights it was first made with.
  std::function<void(const std::filesystem::path& directory)> optimizer_writer() const;
  /// Errors: StoreError with path and reason.
  void load_optimizer(const std::filesystem::path& directory);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::learner
