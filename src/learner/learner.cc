#include "learner/learner.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "learner/agreement.h"
#include "learner/checkpointing.h"
#include "learner/loss.h"
#include "learner/merge_paths.h"
#include "learner/micro_batch.h"
#include "learner/optimizer.h"
#include "learner/packing.h"
#include "learner/trainable.h"
#include "policy/weights.h"

namespace espalier::learner {
namespace {

using TreeList = std::vector<const tree::Tree*>;
using Sums = std::map<std::string, double>;

/// Trees of one optimizer update.
struct MiniBatch {
  std::vector<MicroBatch> micro_batches;
  uint64_t tokens = 0;
};

PackOptions pack_options(const common::LearnerConfig& config) {
  PackOptions options;
  if (config.packing == "linear") {
    options.packing = Packing::linear;
  } else if (config.packing != "packed") {
    throw common::ConfigError("learner.packing: got '" + config.packing +
                              "'; allowed: packed, linear");
  }
  options.max_tokens = config.ppo_max_token_len_per_gpu;
  return options;
}

TrainableOptions trainable_options(const LearnerOptions& options) {
  return {options.device, options.learner.dtype, options.learner.lora, options.seed};
}

std::vector<TreeList> split(const TreeList& trees, int mini_batch_size) {
  const size_t size = mini_batch_size > 0 ? static_cast<size_t>(mini_batch_size) : trees.size();
  std::vector<TreeList> parts;
  for (size_t begin = 0; begin < trees.size(); begin += size) {
    const size_t end = std::min(trees.size(), begin + size);
    parts.emplace_back(trees.begin() + static_cast<int64_t>(begin),
                       trees.begin() + static_cast<int64_t>(end));
  }
  return parts;
}

double rate(double sum, double count) { return count > 0 ? sum / count : 0.0; }

}  // namespace

struct Learner::Impl {
  Impl(const policy::WeightsPtr& start, LearnerOptions learner_options)
      : options(std::move(learner_options)),
        trainable(*start, trainable_options(options)),
        optimizer(trainable.parameters()),
        loss(make_loss(options.learner)) {
    if (options.learner.gradient_checkpointing) run_layer = run_checkpointed;
  }

  MiniBatch prepare(const std::vector<Packed>& packed, const std::string& aggregation,
                    size_t trees) const;
  MiniBatch prepare_update(const TreeList& trees) const;
  MiniBatch prepare_cloning(const TreeList& trees) const;
  void set_old_log_probs(std::vector<MiniBatch>& mini_batches) const;
  void accumulate(MicroBatch& batch, Sums& sums, Agreement* agreement);
  double clone(const MiniBatch& demonstrations, double coefficient);
  double optimize(const common::OptimConfig& config, double lr, double loss_sum);

  LearnerOptions options;
  Trainable trainable;
  AdamW optimizer;
  std::unique_ptr<Loss> loss;
  policy::LayerRunner run_layer;
  std::shared_ptr<policy::Weights> reference;
  std::string bad;  // of the last optimize(): what was not finite; empty: nothing
};

MiniBatch Learner::Impl::prepare(const std::vector<Packed>& packed, const std::string& aggregation,
                                 size_t trees) const {
  const policy::Weights weights = trainable.for_pass();
  double scale = options.learner.loss_scale_factor;
  if (scale == 0) scale = weights.shape.max_position_embeddings;
  const auto factors = aggregation_factors({aggregation, trees, scale}, packed);
  MiniBatch mini;
  for (size_t i = 0; i < packed.size(); ++i) {
    mini.tokens += packed[i].tokens.size();
    // Without an edge there is nothing to learn from.
    if (packed[i].edges.size() > 0)
      mini.micro_batches.push_back(
          make_micro_batch(packed[i], factors[i], weights,
                           {.max_tokens = options.learner.ppo_max_token_len_per_gpu}));
  }
  return mini;
}

MiniBatch Learner::Impl::prepare_update(const TreeList& trees) const {
  PackOptions packing = pack_options(options.learner);
  packing.with_paths = loss->needs_paths();
  MiniBatch mini = prepare(pack(trees, packing), loss->options().loss_agg_mode, trees.size());
  if (reference) {
    for (MicroBatch& batch : mini.micro_batches)
      batch.reference_log_probs = evaluate(*reference, batch).log_probs;
  }
  return mini;
}

MiniBatch Learner::Impl::prepare_cloning(const TreeList& trees) const {
  PackOptions packing = pack_options(options.learner);
  packing.with_estimates = false;
  const bool merge = packing.packing == Packing::packed;
  return prepare(merge ? pack_merged(trees, packing) : pack(trees, packing), "token-mean",
                 trees.size());
}

/// π_old of updates after the first one is the policy at the start of the step.
void Learner::Impl::set_old_log_probs(std::vector<MiniBatch>& mini_batches) const {
  const policy::Weights weights = trainable.for_pass();
  for (MiniBatch& mini : mini_batches) {
    for (MicroBatch& batch : mini.micro_batches)
      batch.old_log_probs = evaluate(weights, batch).log_probs;
  }
}

/// Adds a micro-batch's gradient and sums. Where π_old is the current policy its log-probs are
/// those of this very pass.
void Learner::Impl::accumulate(MicroBatch& batch, Sums& sums, Agreement* agreement) {
  const LossOutput output = backward(
      trainable.for_pass(), batch,
      [&](const EdgeDistribution& edges) {
        const LossInput input = loss_input(batch, edges);
        batch.old_log_probs = input.old_log_probs;
        return loss->compute(input);
      },
      run_layer);
  if (agreement) agreement->add(batch.old_log_probs, batch.rollout_log_probs, batch.share);
  for (const auto& [name, value] : output.sums) sums[name] += value;
}

/// Adds the gradient of the demonstrations' negative log-likelihood; returns that.
double Learner::Impl::clone(const MiniBatch& demonstrations, double coefficient) {
  double sum = 0;
  for (const MicroBatch& batch : demonstrations.micro_batches) {
    const LossOutput output = backward(
        trainable.for_pass(), batch,
        [&](const EdgeDistribution& edges) {
          const at::Tensor nll = -(edges.log_probs * batch.share * batch.scale).sum();
          return LossOutput{nll * coefficient, {{"nll", nll.item<double>()}}};
        },
        run_layer);
    sum += output.sums.at("nll");
  }
  return sum;
}

/// Clips and steps; leaves weights and moments alone where the loss or the gradient is not finite.
/// Returns the gradient's norm.
double Learner::Impl::optimize(const common::OptimConfig& config, double lr, double loss_sum) {
  const double norm = optimizer.clip(options.learner.grad_clip);
  bad = optimizer.bad_parameter();
  if (bad.empty() && !(std::isfinite(norm) && std::isfinite(loss_sum))) bad = "the loss";
  if (bad.empty()) {
    optimizer.step(config, lr);
  } else {
    optimizer.zero_grad();
  }
  return norm;
}

Learner::Learner(policy::WeightsPtr weights, const LearnerOptions& options)
    : impl_(std::make_unique<Impl>(weights, options)) {}
Learner::~Learner() = default;

UpdateResult Learner::update(const std::vector<tree::Tree>& trees, int step,
                             const TreeList& demonstrations) {
  const common::LearnerConfig& config = impl_->options.learner;
  const double lr = learning_rate(config.optim, step, impl_->options.total_steps);
  UpdateResult result;
  TreeList list;
  for (const tree::Tree& tree : trees) {
    list.push_back(&tree);
    result.tokens_linear += linear_tokens(tree);
  }
  std::vector<MiniBatch> mini_batches;
  for (const TreeList& part : split(list, config.ppo_mini_batch_size)) {
    mini_batches.push_back(impl_->prepare_update(part));
    result.tokens_packed += mini_batches.back().tokens;
  }
  MiniBatch shown;
  if (config.sft_coef > 0) shown = impl_->prepare_cloning(demonstrations);
  if (config.ppo_epochs > 1 || mini_batches.size() > 1) impl_->set_old_log_probs(mini_batches);
  Sums sums;
  Agreement agreement;
  double norms = 0, skipped = 0;
  for (int epoch = 0; epoch < config.ppo_epochs; ++epoch) {
    for (MiniBatch& mini : mini_batches) {
      if (mini.micro_batches.empty()) continue;
      for (MicroBatch& batch : mini.micro_batches)
        impl_->accumulate(batch, sums, epoch == 0 ? &agreement : nullptr);
      sums["nll"] += impl_->clone(shown, config.sft_coef);
      result.tokens_trained += mini.tokens + shown.tokens;
      ++result.updates;
      const double norm = impl_->optimize(config.optim, lr, sums["pg_loss"] + sums["nll"]);
      norms += norm;
      if (impl_->bad.empty()) continue;
      skipped += 1;
      if (result.bad.empty()) result.bad = impl_->bad;
    }
  }
  const double updates = result.updates;
  common::Metrics& metrics = result.metrics;
  metrics["actor/pg_loss"] = rate(sums["pg_loss"], updates);
  metrics["actor/grad_norm"] = rate(norms, updates);
  metrics["actor/skipped_updates"] = skipped;
  metrics["actor/lr"] = lr;
  metrics["actor/ppo_kl"] = rate(sums["kl"], sums["edges"]);
  metrics["actor/pg_clipfrac"] = rate(sums["clipfrac"], sums["edges"]);
  if (sums.contains("clipfrac_lower"))
    metrics["actor/pg_clipfrac_lower"] = rate(sums["clipfrac_lower"], sums["edges"]);
  metrics["actor/entropy"] = rate(sums["entropy"], sums["edges"]);
  if (sums.contains("reference_kl"))
    metrics["actor/kl_loss"] = rate(sums["reference_kl"], sums["edges"]);
  if (config.sft_coef > 0) metrics["sft/loss"] = rate(sums["nll"], updates);
  agreement.put(metrics);
  return result;
}

UpdateResult Learner::sft_update(const TreeList& trees, int step) {
  const common::OptimConfig& config = impl_->options.sft_optim;
  const double lr = learning_rate(config, step, impl_->options.sft_steps);
  const MiniBatch mini = impl_->prepare_cloning(trees);
  UpdateResult result;
  result.tokens_packed = result.tokens_trained = mini.tokens;
  result.updates = 1;
  for (const tree::Tree* tree : trees) result.tokens_linear += linear_tokens(*tree);
  const double loss = impl_->clone(mini, 1.0);
  result.metrics["sft/loss"] = loss;
  result.metrics["sft/lr"] = lr;
  if (mini.micro_batches.empty()) return result;
  result.metrics["sft/grad_norm"] = impl_->optimize(config, lr, loss);
  result.bad = impl_->bad;
  return result;
}

void Learner::reset_optimizer() { impl_->optimizer.reset(); }

void Learner::set_reference(const policy::WeightsPtr& weights) {
  if (impl_->loss->options().kl_coef == 0) return;
  const at::Tensor& like = impl_->trainable.for_pass().at("model.embed_tokens.weight");
  impl_->reference = weights->clone(like.scalar_type(), like.device());
}

policy::WeightsPtr Learner::weights() const { return impl_->trainable.merged(); }

std::function<void(const std::filesystem::path&)> Learner::optimizer_writer() const {
  auto optimizer = impl_->optimizer.writer();
  if (!impl_->trainable.has_adapters()) return optimizer;
  return [optimizer,
          adapters = impl_->trainable.adapter_writer()](const std::filesystem::path& directory) {
    optimizer(directory);
    adapters(directory / "adapter");
  };
}

void Learner::load_optimizer(const std::filesystem::path& directory) {
  impl_->optimizer.load(directory);
  if (impl_->trainable.has_adapters()) impl_->trainable.load_adapters(directory / "adapter");
}

}  // namespace espalier::learner
