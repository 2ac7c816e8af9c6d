#include "app/trainer.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <thread>

#include "app/algorithm.h"
#include "app/bad_step.h"
#include "app/recovered.h"
#include "app/stored_trees.h"
#include "app/tree_metrics.h"
#include "app/warm_start.h"
#include "common/error.h"
#include "common/files.h"
#include "common/rng.h"
#include "common/stop.h"
#include "common/version.h"
#include "policy/device.h"
#include "policy/model_io.h"
#include "tree/store.h"

namespace espalier::app {

namespace {

/// The learner runs while no episode does and may have every core; the engine, which shares them
/// with the sandboxes, goes on with one thread.
class LearnerThreads {
 public:
  explicit LearnerThreads(int threads) {
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    policy::set_torch_threads(threads > 0 ? threads : cores);
  }
  ~LearnerThreads() { policy::set_torch_threads(1); }
};

bool due(uint64_t step, int every) { return every > 0 && step % static_cast<uint64_t>(every) == 0; }

/// Stored trees are trained on as long as there are any.
uint64_t count_steps(const common::Config& config) {
  return config.data.trees.empty() ? static_cast<uint64_t>(config.trainer.total_steps)
                                   : count_stored_steps(config);
}

learner::LearnerOptions learner_options(const common::Config& config) {
  learner::LearnerOptions options;
  options.learner = config.learner;
  options.sft_optim = config.sft.optim;
  options.total_steps = config.trainer.total_steps;
  options.sft_steps = config.sft.steps;
  options.device = config.model.device;
  options.seed = config.seed;
  return options;
}

std::string verdict_line(const std::string& when, const nlohmann::json& eval) {
  std::string line =
      fmt::format("{:<7} success {:.3f} ± {:.3f} on {} held-out tasks", when,
                  eval["mean"].get<double>(), eval["se"].get<double>(), eval["n"].get<size_t>());
  if (eval.contains("greedy_mean"))
    line += fmt::format(", greedy {:.3f}", eval["greedy_mean"].get<double>());
  return line;
}

}  // namespace

Trainer::Trainer(RunStart start) : config_(std::move(start.config)), run_(std::move(start.run)) {
  spdlog::info("espalier {}: {}, seed {}{}", common::kVersion, run_.root.string(), config_.seed,
               config_.deterministic ? ", deterministic" : "");
  clock_.measure("setup", [&] {
    policy::set_torch_threads(1);
    total_steps_ = count_steps(config_);
    const Start& model = start.model;
    session_ =
        std::make_unique<Session>(config_, SessionOptions{&run_, model.weights, model.tokenizer});
    learner_ = std::make_unique<learner::Learner>(model.weights, learner_options(config_));
    estimator_ = estimator_of(config_);
    published_ = model.weights;
    writer_ = std::make_unique<CheckpointWriter>(
        run_, CheckpointsKept{config_.trainer.keep_last, config_.trainer.keep_best});
    source_ = std::make_unique<TreeSource>(*session_, run_, [this](uint64_t step) {
      if (bar_) bar_->update(progress(), fmt::format("step {}  reward {:.2f}", step + 1, +reward_));
    });
    if (start.checkpoint) go_on_from(*start.checkpoint);
    note_rolled_out();
    saved_ = warm_;
    note(tree::EventType::run_started, 0,
         {{"version", common::kVersion}, {"seed", config_.seed}, {"step", state_.step}});
    if (const std::string cut = session_->journal->cut(); !cut.empty())
      spdlog::warn("journal {}", cut);
    sink_ = common::make_sinks(config_.trainer.logger, run_.root, state_.next_record());
  });
  const common::RolloutConfig& rollout = config_.rollout;
  if (rollout.temperature != 1.0 || rollout.top_p != 1.0 || rollout.top_k != -1) {
    spdlog::warn(
        "rollout.temperature, top_p or top_k change what is sampled; log-probs are those of the "
        "unchanged "
        "policy, so the importance weights do not correct for it");
  }
  for (const std::string& warning : algorithm_warnings(*estimator_, *session_->rule))
    spdlog::warn(warning);
}

void Trainer::go_on_from(const Checkpoint& checkpoint) {
  state_ = checkpoint.state;
  clock_.restore(state_.wall_s);
  learner_->load_optimizer(checkpoint.directory);
  session_->ledger.restore(state_.ledger);
  session_->rule->restore(state_.fork_rule);
  publish(state_.step);
  source_->go_on_from({state_.step, state_.journal});
  resumed_ = warm_ = true;
  spdlog::info("resuming after step {}", state_.step);
}

Trainer::~Trainer() = default;

void Trainer::run_warm_start() {
  warm_start();
  finish();
}

void Trainer::run_rollouts() {
  for (uint64_t step = 0; step < total_steps_ && !session_->ledger.exhausted(); ++step) {
    std::vector<tree::Tree> trees = clock_.measure("rollout", [&] { return source_->take(step); });
    session_->rule->observe(trees);
    note_rolled_out();
    tree::estimate_shaped(*estimator_, trees, shaping_of(config_));
    for (const tree::Tree& tree : trees) note_estimates(tree);
    tree::write_trees(tree::shard_path(run_.root, step), trees);
    common::Metrics metrics = tree_metrics(trees, config_.rollout.max_response_length);
    metrics.merge(budget_metrics(session_->ledger));
    remember_step(step + 1);
    sink_->log(state_.step, metrics);
  }
  finish();
}

void Trainer::run() {
  try {
    if (!warm_) warm_start();
    train();
  } catch (const common::Cancelled&) {
    bar_.reset();
    note(tree::EventType::intervention, 0, {{"what", "stopped on request"}, {"step", state_.step}});
    if (warm_) checkpoint();
    writer_->wait();
    fmt::print("\nStopped {}; go on with: espalier train {} --resume\n",
               warm_ ? fmt::format("after step {}", state_.step) : "in the warm start",
               run_.config().string());
    throw;
  } catch (const common::Error&) {
    bar_.reset();
    fmt::print(stderr,
               "Stopped by an error; once it is mended, go on with: espalier train {} --resume\n",
               run_.config().string());
    throw;
  }
  finish();
}

void Trainer::warm_start() {
  if (config_.sft.episodes > 0 && config_.model.path.empty()) {
    clock_.measure("sft", [&] {
      const std::vector<tree::Tree> trees = demonstrations();
      const LearnerThreads threads(config_.learner.threads);
      const double loss = behaviour_cloning(config_, *learner_, trees);
      spdlog::info("warm start: {} demonstrations, loss {:.3f}", trees.size(), loss);
      learner_->reset_optimizer();
    });
    publish(0);
  }
  remember_step(0);
  warm_ = true;
  checkpoint();
}

/// Those of an earlier process of this run, if it had them all.
std::vector<tree::Tree> Trainer::demonstrations() {
  const std::filesystem::path file = run_.trees() / "demonstrations.h5";
  if (std::filesystem::exists(file)) {
    std::vector<tree::Tree> stored = tree::read_trees(file);
    if (stored.size() == static_cast<size_t>(config_.sft.episodes)) return stored;
  }
  std::vector<tree::Tree> fresh = demonstrate(*session_);
  tree::write_trees(file, fresh);
  return fresh;
}

/// What the loss needs besides trees.
void Trainer::prepare_loss() {
  if (config_.learner.kl_loss_coef > 0) {
    // The policy that RL started from: step 0 is kept.
    const std::filesystem::path first = checkpoint_path(run_, 0);
    const bool kept = resumed_ && std::filesystem::exists(first);
    learner_->set_reference(kept ? policy::load_model(first) : learner_->weights());
  }
  if (config_.learner.sft_coef > 0) demonstrations_ = demonstrations();
}

/// Demonstrations cloned beside a step's trees: drawn anew for each from the seed.
std::vector<const tree::Tree*> Trainer::shown_beside(uint64_t step) const {
  std::vector<const tree::Tree*> shown;
  if (demonstrations_.empty()) return shown;
  common::Rng rng(common::derive_key(config_.seed, "sft", "beside/" + std::to_string(step)));
  const auto last = static_cast<int64_t>(demonstrations_.size()) - 1;
  for (int i = 0; i < config_.learner.sft_batch_size; ++i)
    shown.push_back(&demonstrations_[static_cast<size_t>(rng.range(0, last))]);
  return shown;
}

double Trainer::progress() const {
  return config_.budget.limit > 0 ? session_->ledger.used() : static_cast<double>(state_.step);
}

std::string Trainer::budget() const {
  return fmt::format("{} {}", config_.budget.limit, config_.budget.unit);
}

bool Trainer::out_of_work() const {
  return state_.step >= total_steps_ || state_.budget_spent == budget() ||
         session_->ledger.exhausted();
}

void Trainer::publish(uint64_t version) {
  published_ = learner_->weights();
  session_->engine->publish(published_, version);
}

/// While nothing is rolled out.
void Trainer::note_rolled_out() {
  spent_ = session_->ledger.total();
  rule_state_ = session_->rule->save();
}

tree::Ledger Trainer::spent() const {
  const tree::Ledger& ledger = session_->ledger;
  return {ledger.unit(), ledger.limit(), ledger.model(), spent_};
}

/// What a checkpoint goes on from: an interrupted step leaves no trace in it.
void Trainer::remember_step(uint64_t done) {
  state_.step = done;
  state_.ledger = spent().save();
  state_.fork_rule = rule_state_;
  state_.success.reset();
  saved_ = false;
}

void Trainer::train() {
  prepare_loss();
  if (!state_.begun) {
    common::Metrics metrics;
    state_.eval_before = evaluate_both("before", metrics);
    sink_->log(0, metrics);
    state_.begun = true;
    saved_ = false;
    checkpoint();
  }
  if (config_.data.trees.empty())
    session_->ledger.expect_training(static_cast<uint64_t>(config_.learner.ppo_epochs));
  const bool budgeted = config_.budget.limit > 0;
  bar_.emplace("training", budgeted ? config_.budget.limit : static_cast<double>(total_steps_),
               budgeted ? config_.budget.unit : "steps");
  bar_->start_from(progress());
  while (!state_.unlogged.empty() || !out_of_work() || source_->begun()) {
    if (state_.unlogged.empty()) train_step();
    close_step();
  }
  bar_.reset();
  if (state_.eval_after.is_null()) {  // there was no step to do
    common::Metrics unlogged;
    state_.eval_after = evaluate_both("after", unlogged);
  }
}

void Trainer::train_step() {
  const StepTimes times(clock_, session_->farm->progress(), session_->ledger);
  const uint64_t step = state_.step;
  std::vector<tree::Tree> trees = clock_.measure("rollout", [&] { return source_->take(step); });
  session_->rule->observe(trees);
  note_rolled_out();
  // With what the update will take it may be reached, and without trees that are left out not.
  if (session_->ledger.exhausted()) state_.budget_spent = budget();
  if (goes_ahead(step)) source_->begin(step + 1);
  state_.unlogged = learn(trees, step);
  // Weights change between rollouts only: every tree is of one version.
  clock_.measure("rollout", [&] { source_->settle(); });
  session_->ledger.add(std::exchange(learnt_, {}));
  session_->ledger.trained(spent_);
  publish(step + 1);
  state_.unlogged.merge(times.metrics());
  remember_step(step + 1);
}

bool Trainer::goes_ahead(uint64_t step) const {
  return config_.trainer.staleness_threshold > 0 && config_.data.trees.empty() &&
         step + 1 < total_steps_ && !session_->ledger.exhausted() && !pauses_after(step + 1);
}

/// Where the run may be gone on with from a checkpoint, or the policy is evaluated, nothing is
/// rolled out ahead: a resumed run then does what one never interrupted does.
bool Trainer::pauses_after(uint64_t done) const {
  return due(done, config_.trainer.save_freq) || due(done, config_.trainer.test_freq);
}

/// Evaluates where it is due, writes the step's record and saves.
void Trainer::close_step() {
  common::Metrics metrics = state_.unlogged;
  const bool last = out_of_work() && !source_->begun();
  const bool evaluates = last || due(state_.step, config_.trainer.test_freq);
  if (last) {
    bar_->update(progress(), fmt::format("{} steps", state_.step));
    bar_->finish();
    state_.eval_after = evaluate_both("after", metrics);
  } else if (evaluates) {
    bar_->clear();
    evaluate_both(fmt::format("step {}", state_.step), metrics);
  }
  if (const auto success = metrics.find("val/success/mean"); success != metrics.end())
    state_.success = success->second;
  sink_->log(state_.step, metrics);
  state_.unlogged.clear();
  spdlog::info("step {}: score {:.3f}, {:.1f} s", state_.step, metrics["critic/score/mean"],
               metrics["perf/time_per_step"]);
  if (state_.bad_in_a_row >= config_.learner.max_bad_steps) {
    sink_->flush();
    throw common::PolicyError(fmt::format(
        "training stopped: {} step(s) in a row had a loss or gradient that is not finite "
        "(learner.max_bad_steps), in the last first '{}'. The batches are in {}; lower "
        "learner.optim.lr, or look at them with espalier trace",
        state_.bad_in_a_row, bad_parameter_, run_.bad_steps().string()));
  }
  const bool rated = evaluates && config_.trainer.keep_best > 0;
  if (last || rated || due(state_.step, config_.trainer.save_freq)) checkpoint();
}

common::Metrics Trainer::learn(std::vector<tree::Tree>& trees, uint64_t step) {
  common::Metrics metrics;
  clock_.measure("train", [&] {
    const tree::ShapingCounts shaped = clock_.measure("adv", [&] {  // a part of "train"
      return tree::estimate_shaped(*estimator_, trees, shaping_of(config_));
    });
    for (const tree::Tree& tree : trees) note_estimates(tree);
    tree::write_trees(tree::shard_path(run_.root, step), trees);
    metrics = tree_metrics(trees, config_.rollout.max_response_length);
    metrics.merge(shaping_metrics(shaped, shaping_of(config_)));
    reward_ = metrics["critic/score/mean"];
    // A tree that the budget cut short would teach only its quick branches.
    std::erase_if(trees, has_cancelled_leaf);
    std::erase_if(trees, tree::is_filtered);
    if (trees.empty()) return;
    const LearnerThreads threads(config_.learner.threads);
    const std::vector<const tree::Tree*> shown = shown_beside(step);
    learner::UpdateResult update = learner_->update(trees, static_cast<int>(step), shown);
    metrics.merge(update.metrics);
    metrics.merge(staleness_metrics(trees, step));
    const double difference = metrics["training/rollout_probs_diff_mean"];
    const double allowed = config_.learner.rollout_probs_diff_threshold;
    if (allowed > 0 && difference > allowed)
      spdlog::warn(
          "step {}: the probabilities of sampler and learner differ by {:.3f} in the mean "
          "(learner.rollout_probs_diff_threshold {}); their correlation is {:.3f}",
          step, difference, allowed, metrics["training/rollout_actor_probs_pearson_corr"]);
    state_.bad_in_a_row = update.bad.empty() ? 0 : state_.bad_in_a_row + 1;
    if (!update.bad.empty()) skipped(step, trees, update.bad);
    for (const tree::Tree& tree : trees)
      note(tree::EventType::tree_trained, tree.index, {{"step", step}, {"version", step + 1}});
    tree::Spend spend;
    spend.learner_tokens = update.tokens_packed;
    spend.learner_tokens_linear = update.tokens_linear;
    const auto epochs = static_cast<uint64_t>(config_.learner.ppo_epochs);
    spend.trained_tokens = update.tokens_trained;
    const bool linear = config_.learner.packing == "linear";
    spend.trained_attended = epochs * attended_tokens(trees, linear);
    for (const tree::Tree* tree : shown)
      spend.trained_attended +=
          static_cast<uint64_t>(update.updates) * attended_tokens({*tree}, linear);
    learnt_ = spend;
    spent_ += spend;
  });
  metrics.merge(budget_metrics(spent()));
  return metrics;
}

void Trainer::skipped(uint64_t step, const std::vector<tree::Tree>& trees,
                      const std::string& parameter) {
  ++state_.bad_steps;
  bad_parameter_ = parameter;
  const auto saved =
      save_bad_step(run_, config_, {step, parameter, &trees, {published_, session_->tokenizer}});
  note(tree::EventType::intervention, 0,
       {{"what", "update skipped: not finite"}, {"step", step}, {"parameter", parameter}});
  spdlog::warn(
      "step {}: loss or gradient is not finite (first: {}); no update was made. Look at it: "
      "espalier trace log {}; do it again: espalier train {}/config.yaml",
      step, parameter, saved.string(), saved.string());
}

nlohmann::json Trainer::evaluate_both(const std::string& when, common::Metrics& metrics) {
  if (config_.eval.n == 0) return nullptr;
  const double before = clock_.seconds("eval");
  nlohmann::json json = clock_.measure("eval", [&] {
    EvalRequest request;
    request.tasks = held_out_tasks(config_);
    request.step = state_.step;
    request.label = "evaluation, " + when;
    const EvalResult sampled = evaluate(*session_, request);
    nlohmann::json figures = sampled.to_json();
    metrics["val/success/mean"] = sampled.mean;
    metrics["val/success/se"] = sampled.standard_error;
    if (config_.eval.greedy) {
      request.temperature = 0;
      request.label = "greedy, " + when;
      const EvalResult greedy = evaluate(*session_, request);
      figures["greedy_mean"] = greedy.mean;
      figures["greedy_se"] = greedy.standard_error;
      metrics["val/greedy/mean"] = greedy.mean;
      metrics["val/greedy/se"] = greedy.standard_error;
    }
    const std::string verdict = verdict_line(when, figures);
    fmt::print("{}\n", verdict);
    std::fflush(stdout);
    spdlog::info("{}", verdict);
    return figures;
  });
  metrics["timing_s/testing"] = clock_.seconds("eval") - before;
  return json;
}

void Trainer::note_estimates(const tree::Tree& tree) {
  tree::Event event;
  event.type = tree::EventType::advantage;
  event.tree_index = tree.index;
  event.text = nlohmann::json{{"estimator", estimator_->name()}}.dump();
  for (const tree::Node& node : tree.nodes)
    event.estimates.push_back(
        {node.id, node.value, node.advantage, node.weight, node.s_plus, node.s_minus});
  append(std::move(event));
}

void Trainer::note(tree::EventType type, uint64_t tree_index, const nlohmann::json& detail) {
  tree::Event event;
  event.type = type;
  event.tree_index = tree_index;
  event.text = detail.dump();
  append(std::move(event));
}

void Trainer::append(tree::Event event) {
  event.time_us = std::chrono::duration_cast<std::chrono::microseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  session_->journal->append(event);
}

void Trainer::checkpoint() {
  if (saved_) return;
  state_.wall_s = clock_.to_json();
  sink_->flush();
  note(tree::EventType::checkpoint, 0, {{"step", state_.step}});
  state_.journal = session_->journal->position();
  writer_->save({state_, learner_->weights(), learner_->optimizer_writer(), session_->tokenizer});
  saved_ = true;
}

}  // namespace espalier::app
