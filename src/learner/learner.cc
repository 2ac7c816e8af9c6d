#include "learner/learner.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "learner/agreement.h"
#include "learner/loss.h"
#include "learner/micro_batch.h"
#include "learner/optimizer.h"
#include "learner/packing.h"
#include "policy/device.h"
#include "policy/weights.h"

namespace espalier::learner {
namespace {

using TreeList = std::vector<const tree::Tree*>;

/// The learner's own parameters: a copy that requires gradients; float64 stays, all else becomes
/// float32 masters.
std::shared_ptr<policy::Weights> master_copy(const policy::Weights& weights,
                                             const std::string& device) {
  const auto type = weights.at("model.embed_tokens.weight").scalar_type();
  auto copy = weights.clone(type == at::kDouble ? at::kDouble : at::kFloat,
                            at::Device(policy::resolve_device(device)));
  for (auto& [name, tensor] : copy->tensors) tensor.requires_grad_(true);
  return copy;
}

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
        weights(master_copy(*start, options.device)),
        optimizer(weights->tensors),
        loss(make_loss(options.learner)) {}

  MiniBatch prepare(const TreeList& trees, const std::string& aggregation,
                    const PackOptions& packing) const;
  void set_old_log_probs(std::vector<MiniBatch>& mini_batches) const;
  void accumulate(MicroBatch& batch, std::map<std::string, double>& sums, Agreement* agreement);
  double optimize(const common::OptimConfig& config, double lr, double loss_sum);

  LearnerOptions options;
  std::shared_ptr<policy::Weights> weights;
  AdamW optimizer;
  std::unique_ptr<Loss> loss;
  std::string bad;  // of the last optimize(): what was not finite; empty: nothing
};

MiniBatch Learner::Impl::prepare(const TreeList& trees, const std::string& aggregation,
                                 const PackOptions& packing) const {
  const std::vector<Packed> packed = pack(trees, packing);
  const auto factors = aggregation_factors(aggregation, packed, trees.size());
  MiniBatch mini;
  for (size_t i = 0; i < packed.size(); ++i) {
    mini.tokens += packed[i].tokens.size();
    // Without an edge there is nothing to learn from.
    if (packed[i].edges.size() > 0)
      mini.micro_batches.push_back(make_micro_batch(packed[i], factors[i], *weights));
  }
  return mini;
}

/// π_old of updates after the first one is the policy at the start of the step.
void Learner::Impl::set_old_log_probs(std::vector<MiniBatch>& mini_batches) const {
  const c10::AutoGradMode no_grad(false);
  for (MiniBatch& mini : mini_batches) {
    for (MicroBatch& batch : mini.micro_batches)
      batch.old_log_probs = forward(*weights, batch).log_probs;
  }
}

/// Adds a micro-batch's gradient and sums. Where π_old is the current policy its log-probs are
/// those of this very pass.
void Learner::Impl::accumulate(MicroBatch& batch, std::map<std::string, double>& sums,
                               Agreement* agreement) {
  const EdgeDistribution edges = forward(*weights, batch);
  if (!batch.old_log_probs.defined()) batch.old_log_probs = edges.log_probs.detach();
  if (agreement) agreement->add(batch.old_log_probs, batch.rollout_log_probs, batch.share);
  LossInput input;
  input.log_probs = edges.log_probs;
  input.old_log_probs = batch.old_log_probs;
  input.rollout_log_probs = batch.rollout_log_probs;
  input.s_plus = batch.s_plus;
  input.s_minus = batch.s_minus;
  input.entropies = edges.entropies;
  input.share = batch.share;
  input.weight = batch.weight;
  input.scale = batch.scale;
  const LossOutput output = loss->compute(input);
  for (const auto& [name, value] : output.sums) sums[name] += value;
  output.loss.backward();
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

UpdateResult Learner::update(const std::vector<tree::Tree>& trees, int step) {
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
    mini_batches.push_back(impl_->prepare(part, config.loss_agg_mode, pack_options(config)));
    result.tokens_packed += mini_batches.back().tokens;
  }
  if (config.ppo_epochs > 1 || mini_batches.size() > 1) impl_->set_old_log_probs(mini_batches);
  std::map<std::string, double> sums;
  Agreement agreement;
  double norms = 0, updates = 0, skipped = 0;
  for (int epoch = 0; epoch < config.ppo_epochs; ++epoch) {
    for (MiniBatch& mini : mini_batches) {
      if (mini.micro_batches.empty()) continue;
      for (MicroBatch& batch : mini.micro_batches)
        impl_->accumulate(batch, sums, epoch == 0 ? &agreement : nullptr);
      const double norm = impl_->optimize(config.optim, lr, sums["pg_loss"]);
      norms += norm;
      updates += 1;
      if (impl_->bad.empty()) continue;
      skipped += 1;
      if (result.bad.empty()) result.bad = impl_->bad;
    }
  }
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
  agreement.put(metrics);
  return result;
}

UpdateResult Learner::sft_update(const std::vector<const tree::Tree*>& trees, int step) {
  const common::OptimConfig& config = impl_->options.sft_optim;
  const double lr = learning_rate(config, step, impl_->options.sft_steps);
  PackOptions packing = pack_options(impl_->options.learner);
  packing.with_estimates = false;
  MiniBatch mini = impl_->prepare(trees, "token-mean", packing);
  UpdateResult result;
  result.tokens_packed = mini.tokens;
  for (const tree::Tree* tree : trees) result.tokens_linear += linear_tokens(*tree);
  double sum = 0;
  for (const MicroBatch& batch : mini.micro_batches) {
    const EdgeDistribution edges = forward(*impl_->weights, batch);
    const at::Tensor nll = -(edges.log_probs * batch.share * batch.scale).sum();
    sum += nll.item<double>();
    nll.backward();
  }
  result.metrics["sft/loss"] = sum;
  result.metrics["sft/lr"] = lr;
  if (mini.micro_batches.empty()) return result;
  result.metrics["sft/grad_norm"] = impl_->optimize(config, lr, sum);
  result.bad = impl_->bad;
  return result;
}

void Learner::reset_optimizer() { impl_->optimizer.reset(); }

policy::WeightsPtr Learner::weights() const { return impl_->weights->clone(); }

std::function<void(const std::filesystem::path&)> Learner::optimizer_writer() const {
  return impl_->optimizer.writer();
}

void Learner::load_optimizer(const std::filesystem::path& directory) {
  impl_->optimizer.load(directory);
}

}  // namespace espalier::learner
