#include "learner/loss.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/exp.h>

#include <algorithm>
#include <utility>

#include "common/error.h"

namespace espalier::learner {
namespace {

// exp() of a larger log-ratio says nothing more and would overflow float32.
constexpr double kMaxLogRatio = 20.0;

double total(const at::Tensor& values) { return values.sum(at::kDouble).item<double>(); }

struct ClipOptions {
  double low = 0, high = 0;
  double dual = 0;       // 0: off
  double threshold = 0;  // of truncated importance sampling; 0: off
  double entropy_coeff = 0;
};

class ClippedLoss : public Loss {
 public:
  ClippedLoss(std::string name, const ClipOptions& options)
      : name_(std::move(name)), options_(options) {}

  std::string name() const override { return name_; }

  LossOutput compute(const LossInput& input) const override {
    const at::Tensor log_ratio = input.log_probs - input.old_log_probs;
    const at::Tensor ratio = at::exp(at::clamp(log_ratio, -kMaxLogRatio, kMaxLogRatio));
    const at::Tensor factor_plus = at::clamp_max(ratio, 1.0 + options_.high);
    at::Tensor factor_minus = at::clamp_min(ratio, 1.0 - options_.low);
    if (options_.dual > 0) factor_minus = at::clamp_max(factor_minus, options_.dual);
    at::Tensor objective = input.s_plus * factor_plus + input.s_minus * factor_minus;
    if (options_.threshold > 0) objective = objective * importance(input);
    const at::Tensor pg_loss = -(objective * input.scale).sum();
    LossOutput output;
    output.loss = pg_loss;
    if (options_.entropy_coeff != 0) {
      const at::Tensor bonus = (input.entropies * input.weight * input.scale).sum();
      output.loss = pg_loss - options_.entropy_coeff * bonus;
    }
    output.sums = sums(input, log_ratio.detach(), ratio.detach());
    output.sums["pg_loss"] = pg_loss.item<double>();
    return output;
  }

 private:
  at::Tensor importance(const LossInput& input) const {
    return at::clamp_max(at::exp((input.old_log_probs - input.rollout_log_probs).detach()),
                         options_.threshold);
  }

  std::map<std::string, double> sums(const LossInput& input, const at::Tensor& log_ratio,
                                     const at::Tensor& ratio) const {
    const at::Tensor above = (ratio > 1.0 + options_.high).logical_and(input.s_plus > 0);
    const at::Tensor below = (ratio < 1.0 - options_.low).logical_and(input.s_minus < 0);
    std::map<std::string, double> sums;
    sums["clipfrac"] = total(input.share * above.logical_or(below));
    sums["kl"] = -total(input.share * log_ratio);
    sums["entropy"] = total(input.share * input.entropies.detach());
    sums["edges"] = total(input.share);
    if (options_.dual > 0) {
      sums["clipfrac_lower"] =
          total(input.share * (ratio > options_.dual).logical_and(input.s_minus < 0));
    }
    return sums;
  }

  std::string name_;
  ClipOptions options_;
};

}  // namespace

std::vector<std::string> loss_names() { return {"grpo", "ppo_clip"}; }

std::unique_ptr<Loss> make_loss(const common::LearnerConfig& config) {
  ClipOptions options;
  options.low = config.clip_ratio_low;
  options.high = config.clip_ratio_high;
  options.threshold = config.rollout_is_threshold;
  options.entropy_coeff = config.entropy_coeff;
  if (config.loss == "ppo_clip") {
    options.dual = config.clip_ratio_c;
  } else if (config.loss != "grpo") {
    std::string allowed;
    for (const std::string& name : loss_names()) allowed += (allowed.empty() ? "" : ", ") + name;
    throw common::ConfigError("learner.loss: got '" + config.loss + "'; allowed: " + allowed);
  }
  return std::make_unique<ClippedLoss>(config.loss, options);
}

}  // namespace espalier::learner
