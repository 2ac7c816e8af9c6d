#include "learner/losses/clipped.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/exp.h>

namespace espalier::learner {

at::Tensor probability_ratio(const at::Tensor& log_ratio) {
  constexpr double kMaxLogRatio = 20.0;
  return at::exp(at::clamp(log_ratio, -kMaxLogRatio, kMaxLogRatio));
}

EdgeObjective clipped_objective(const LossInput& input, const LossOptions& options) {
  const at::Tensor ratio = probability_ratio(input.log_probs - input.old_log_probs);
  const double high = 1.0 + options.clip_high, low = 1.0 - options.clip_low;
  at::Tensor of_minus = at::clamp_min(ratio, low);
  if (options.dual_clip > 0) of_minus = at::clamp_max(of_minus, options.dual_clip);
  EdgeObjective objective;
  objective.value = input.s_plus * at::clamp_max(ratio, high) + input.s_minus * of_minus;
  const at::Tensor hurts = input.s_minus < 0;
  objective.clipped =
      (ratio > high).logical_and(input.s_plus > 0).logical_or((ratio < low).logical_and(hurts));
  if (options.dual_clip > 0)
    objective.clipped_lower = (ratio > options.dual_clip).logical_and(hurts);
  return objective;
}

}  // namespace espalier::learner
