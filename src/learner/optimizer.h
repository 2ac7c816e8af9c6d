// AdamW with learning-rate schedules and clipping of the gradient's global norm. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"

namespace espalier::learner {

/// Learning rate at `step` (from 0) of `total_steps`: a linear warm-up over lr_warmup_steps, times
/// the schedule. constant: 1; linear and cosine fall from 1 to a tenth at total_steps. Errors:
/// ConfigError for an unknown lr_scheduler.
double learning_rate(const common::OptimConfig& config, int step, int total_steps);

/// AdamW (Loshchilov & Hutter 2019): p ← p·(1 − lr·λ) − lr·m̂ / (√v̂ + ε), in place, weight decay on
/// all parameters as torch.optim.AdamW has it. Thread contract: one owner. Deterministic.
class AdamW {
 public:
  /// Borrows the parameters' storage: tensors by name, requiring gradients.
  explicit AdamW(std::map<std::string, at::Tensor> parameters);

  /// Scales the gradients so that their global 2-norm is at most `max_norm` (0: no clipping);
  /// returns the norm before.
  double clip(double max_norm);
  /// Of the last clip(): the first parameter, by name, whose gradient's norm is not finite; empty:
  /// there is none.
  const std::string& bad_parameter() const { return bad_parameter_; }
  /// One update with the gradients there are, which it then clears.
  void step(const common::OptimConfig& config, double lr);
  void zero_grad();
  /// Forgets moments and counters.
  void reset();

  /// optimizer.safetensors: "exp_avg.NAME", "exp_avg_sq.NAME", "step.NAME". Errors: StoreError.
  /// A copy of what there is now, that any thread can write to a directory later.
  std::function<void(const std::filesystem::path&)> writer() const;
  void load(const std::filesystem::path& directory);

 private:
  std::map<std::string, at::Tensor> parameters_;
  std::map<std::string, at::Tensor> exp_avg_, exp_avg_sq_, steps_;
  std::string bad_parameter_;
};

}  // namespace espalier::learner
