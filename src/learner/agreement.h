// How well the learner's log-probs agree with those the sampler recorded. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/metrics.h"

namespace espalier::learner {

/// Weighted moments of (p_learner, p_rollout) over edges, in float64. Thread contract: one owner.
class Agreement {
 public:
  /// All [E].
  void add(const at::Tensor& learner_log_probs, const at::Tensor& rollout_log_probs,
           const at::Tensor& share);
  /// training/rollout_probs_diff_mean, …_max and training/rollout_actor_probs_pearson_corr (1 where
  /// a side is constant and both agree, 0 where not).
  void put(common::Metrics& metrics) const;

 private:
  double count_ = 0, difference_ = 0, largest_ = 0;
  double x_ = 0, y_ = 0, xx_ = 0, yy_ = 0, xy_ = 0;
};

}  // namespace espalier::learner
