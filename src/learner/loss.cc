#include "learner/loss.h"

#include <ATen/ops/clamp_max.h>
#include <ATen/ops/exp.h>

#include <utility>

#include "common/error.h"
#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Loss> (*make)(const common::LearnerConfig&);
};

constexpr Entry kLosses[] = {
#define ESPALIER_LOSS(name) {#name, make_##name},
#include "learner/losses/registry.inc"
#undef ESPALIER_LOSS
};

double total(const at::Tensor& values) { return values.sum(at::kDouble).item<double>(); }

at::Tensor importance(const LossInput& input, double threshold) {
  const at::Tensor drift = (input.old_log_probs - input.rollout_log_probs).detach();
  return at::clamp_max(at::exp(drift), threshold);
}

at::Tensor divergence(const LossInput& input, Divergence kind) {
  const at::Tensor difference = input.log_probs - input.reference_log_probs;
  if (kind == Divergence::k1) return difference;
  if (kind == Divergence::k2) return 0.5 * difference * difference;
  return probability_ratio(-difference) - 1.0 + difference;
}

Divergence divergence_named(const std::string& name) {
  if (name == "k1") return Divergence::k1;
  if (name == "k2") return Divergence::k2;
  if (name == "k3") return Divergence::k3;
  throw common::ConfigError("learner.kl_loss_type: got '" + name + "'; allowed: k1, k2, k3");
}

}  // namespace

LossOutput Loss::compute(const LossInput& input) const {
  EdgeObjective objective = this->objective(input);
  if (options_.rollout_is_threshold > 0)
    objective.value = objective.value * importance(input, options_.rollout_is_threshold);
  LossOutput output;
  output.loss = -(objective.value * input.scale).sum();
  auto& sums = output.sums;
  sums["pg_loss"] = output.loss.item<double>();
  const at::Tensor share = input.weight * input.scale;
  if (options_.entropy_coeff != 0)
    output.loss = output.loss - options_.entropy_coeff * (input.entropies * share).sum();
  if (options_.kl_coef != 0) {
    const at::Tensor distance = divergence(input, options_.divergence);
    output.loss = output.loss + options_.kl_coef * (distance * share).sum();
    sums["reference_kl"] = total(input.share * distance.detach());
  }
  sums["clipfrac"] = objective.clipped.defined() ? total(input.share * objective.clipped) : 0.0;
  if (objective.clipped_lower.defined())
    sums["clipfrac_lower"] = total(input.share * objective.clipped_lower);
  sums["kl"] = total(input.share * (input.old_log_probs - input.log_probs.detach()));
  sums["entropy"] = total(input.share * input.entropies.detach());
  sums["edges"] = total(input.share);
  return output;
}

LossOptions loss_options(const std::string& name, const common::LearnerConfig& config,
                         LossOptions published) {
  LossOptions options = std::move(published);
  auto take = [](double value, double& into) {
    if (value != -1) into = value;
  };
  options.name = name;
  take(config.clip_ratio_low, options.clip_low);
  take(config.clip_ratio_high, options.clip_high);
  take(config.clip_ratio_c, options.dual_clip);
  if (config.loss_agg_mode != "auto") options.loss_agg_mode = config.loss_agg_mode;
  options.rollout_is_threshold = config.rollout_is_threshold;
  options.entropy_coeff = config.entropy_coeff;
  options.kl_coef = config.kl_loss_coef;
  options.divergence = divergence_named(config.kl_loss_type);
  options.sapo_tau_pos = config.sapo_tau_pos;
  options.sapo_tau_neg = config.sapo_tau_neg;
  return options;
}

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kLosses) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Loss> make_loss(const common::LearnerConfig& config) {
  std::string allowed;
  for (const Entry& entry : kLosses) {
    if (config.loss == entry.name) return entry.make(config);
    allowed += (allowed.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw common::ConfigError("learner.loss: got '" + config.loss + "'; allowed: " + allowed);
}

}  // namespace espalier::learner
