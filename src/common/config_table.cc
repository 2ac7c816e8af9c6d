#include "common/config_table.h"

#include <algorithm>
#include <unordered_map>

#include "common/registered_names.h"

namespace espalier::common::config {
namespace {

const Choices kForkRules = {ESPALIER_FORK_RULE_NAMES};
const Choices kEstimators = {ESPALIER_ESTIMATOR_NAMES};
const Choices kWeights = {"auto", "visitation", "linear", "sqrt", "once"};
const Choices kValues = {"auto", "leaf", "hierarchical", "entropy"};
const Choices kBaselines = {"auto", "loo", "mean", "parent"};
const Choices kSigmas = {"auto", "off", "prompt", "batch", "parent"};
const Choices kSteps = {"auto", "segment", "turn"};
const Choices kLosses = {ESPALIER_LOSS_NAMES};
const Choices kLossAggregations = {"auto",       "seq-mean-token-sum", "seq-mean-token-mean",
                                   "token-mean", "token-sum",          "seq-mean-token-sum-norm"};
const Choices kDivergences = {"k1", "k2", "k3"};
const Choices kFilters = {"none", "prompt", "fork"};
const Choices kLearnerTypes = {"float32", "bfloat16"};
const Choices kBudgetUnits = {"generated_tokens",
                              "prefill_tokens",
                              "cached_prefill_tokens",
                              "attended_tokens",
                              "env_steps",
                              "forks",
                              "leaves",
                              "verifier_runs",
                              "selector_calls",
                              "selector_tokens",
                              "selector_failures",
                              "infra_failures",
                              "learner_tokens",
                              "learner_tokens_linear",
                              "trained_tokens",
                              "trained_attended",
                              "sandbox_seconds",
                              "selector_cost",
                              "rollout_flops",
                              "learner_flops",
                              "model_flops"};
const Choices kLoggers = {"jsonl", "tensorboard"};
const Choices kSchedulers = {"constant", "linear", "cosine"};
const Choices kDevices = {"auto", "cpu", "cuda"};
const Choices kDurabilities = {"none", "batch", "sync"};
const Choices kBackends = {"sandbox", "container"};
const Choices kSnapshots = {"keep-none", "keep-branching", "keep-all"};
const Choices kPackings = {"packed", "linear"};

constexpr Range above_zero(double high) { return {0, high, true, false}; }
constexpr Range below(double low, double high) { return {low, high, false, true}; }
constexpr Range between(double low, double high) { return {low, high, false, false}; }

constexpr Range kDepths = between(1, 4);  // of the nursery

// The path is the member, so that the two cannot differ.
#define KEY(path) #path, Access(+[](Config& config) { return &config.path; })

std::vector<Key> top_keys() {
  return {
      {KEY(name), {}, "Name of the run; its folder in run_dir"},
      {KEY(run_dir), {}, "Folder that holds the runs"},
      {KEY(seed), between(0, 18446744073709551615.0), "Seed of every random draw of the run"},
      {KEY(deterministic),
       {},
       "Lock-step rounds: the same seed gives the same trees and weights, bit for bit"},
      {KEY(durability), kDurabilities,
       "When the journal reaches the disk: never on purpose, once a batch, at every event"},
  };
}

std::vector<Key> model_keys() {
  return {
      {KEY(model.path),
       {},
       "Hugging Face directory to start from; empty: from scratch, in the shape below"},
      {KEY(model.device), kDevices,
       "Where the policy and the learner compute; auto: cuda if there is one"},
      {KEY(model.hidden_size), between(2, 65536), "Width; a multiple of num_attention_heads"},
      {KEY(model.num_hidden_layers), between(1, 1024), "Layers"},
      {KEY(model.num_attention_heads), between(1, 1024),
       "Attention heads; width of a head must be even"},
      {KEY(model.num_key_value_heads), between(1, 1024),
       "Key/value heads; divides num_attention_heads (fewer: grouped-query attention)"},
      {KEY(model.intermediate_size), between(1, 1048576), "Width of the feed-forward layer"},
      {KEY(model.max_position_embeddings), between(16, 1048576), "Context, tokens"},
      {KEY(model.rope_theta), above_zero(1e9), "Base of the rotary position frequencies"},
      {KEY(model.qk_norm), {}, "Normalise queries and keys of each head (as Qwen3 does)"},
  };
}

std::vector<Key> data_keys() {
  return {
      {KEY(data.families), {}, "Nursery families to draw tasks from; empty: the base tier"},
      {KEY(data.depth_min), kDepths, "Least length of a task's chain"},
      {KEY(data.depth_max), kDepths, "Greatest length of a task's chain"},
      {KEY(data.train_batch_size), between(1, 65536), "Tasks (trees) a step"},
      {KEY(data.trees), {}, "Run directory whose stored trees are trained on; empty: roll out"},
      {KEY(data.from_step), between(-1, 1e9),
       "data.trees: start from that run's checkpoint after this many steps, with the batch of its "
       "next; -1: from the model, with its first"},
      {KEY(data.counterfactuals),
       {},
       "data.trees: train on the counterfactual branches of `trace replay`, too"},
  };
}

std::vector<Key> rollout_keys() {
  return {
      {KEY(rollout.n), between(1, 4096), "Root episodes a tree (the group size G)"},
      {KEY(rollout.temperature), between(0, 100), "Sampling temperature; 0: greedy"},
      {KEY(rollout.top_p), above_zero(1),
       "Sample from the likeliest tokens that hold this probability"},
      {KEY(rollout.top_k), between(-1, 1e6), "Sample from this many likeliest tokens; -1: all"},
      {KEY(rollout.max_response_length), between(1, 1048576), "Tokens an action may have"},
      {KEY(rollout.max_observation_length), between(1, 1048576),
       "Tokens of an observation that the policy sees: the first ones"},
      {KEY(rollout.max_assistant_turns), between(0, 100000),
       "Turns an episode; 0: the task's own limit"},
      {KEY(rollout.command_timeout_s), above_zero(86400), "Seconds a command may run"},
      {KEY(rollout.max_live), between(1, 1e6), "Environments alive at once"},
      {KEY(rollout.max_kept), between(0, 1e6),
       "Environments a tree keeps, beyond max_live, for rules that look back to fork live; their "
       "other branches are made again by value"},
      {KEY(rollout.infra_retries), between(0, 100), "Retries of an edge whose sandbox failed"},
      {KEY(rollout.workers), between(0, 4096), "Threads that drive episodes; 0: one a core"},
  };
}

std::vector<Key> algorithm_keys() {
  return {
      {KEY(algorithm.adv_estimator), kEstimators,
       "How episodes are credited (docs/estimators.md); switches left at auto below are each "
       "one's published form"},
      {KEY(algorithm.filter_groups), kFilters,
       "Leave out what has no spread of rewards: nothing, prompts, or siblings of a branching too"},
      {KEY(algorithm.overlong_length), between(0, 1e9),
       "Action tokens of an episode from which the whole length penalty counts; 0: no penalty"},
      {KEY(algorithm.overlong_buffer), between(0, 1e9),
       "Tokens before overlong_length over which the penalty grows"},
      {KEY(algorithm.overlong_penalty), between(0, 1e6), "The whole length penalty"},
      {KEY(algorithm.tree.fork_rule), kForkRules, "Where episodes branch (docs/estimators.md)"},
      {KEY(algorithm.tree.branches), between(2, 1024), "Children at a branching (K)"},
      {KEY(algorithm.tree.branches_hard), between(0, 1024),
       "online_entropy, voi: K of tasks solved in less than 10 % so far; 0: as branches"},
      {KEY(algorithm.tree.max_forks), between(0, 100000), "Branchings a tree"},
      {KEY(algorithm.tree.quantile), between(0, 1),
       "online_entropy, sampled_entropy, voi: branch above this running quantile"},
      {KEY(algorithm.tree.probability), between(0, 1), "uniform: chance of branching at a turn"},
      {KEY(algorithm.tree.min_turns_between), between(0, 100000),
       "Turns between branchings of one path"},
      {KEY(algorithm.tree.consecutive_penalty), between(0, 1),
       "online_entropy: share of the entropy that counts no more after each branching in a row"},
      {KEY(algorithm.tree.visit_penalty), between(0, 1000),
       "topk: nats a branch that is there already"},
      {KEY(algorithm.tree.exploration), between(0, 1000), "ucb: weight of entropy and visits"},
      {KEY(algorithm.tree.weight), kWeights,
       "Weight of a shared prefix of |L| leaves: its chance of being visited, |L|, its root, or 1"},
      {KEY(algorithm.tree.value), kValues,
       "Value of a node: mean of its leaves, of its children, or of them by entropy"},
      {KEY(algorithm.tree.baseline), kBaselines,
       "What a node is compared with: the others, all of its group, or its parent"},
      {KEY(algorithm.tree.sigma), kSigmas,
       "What advantages are divided by: nothing, the deviation of the prompt's leaves, the step's, "
       "or those below the parent"},
      {KEY(algorithm.tree.step), kSteps,
       "What one step of a formula is: the turns between branchings, or every turn"},
      {KEY(algorithm.tree.kappa), between(0, 1e6),
       "Shrink baselines of k siblings towards the roots', by k/(k + kappa)"},
      {KEY(algorithm.tree.gamma), above_zero(1), "Discount a turn"},
      {KEY(algorithm.tree.lam), between(0, 1), "gae: weight of later turns (lambda)"},
      {KEY(algorithm.tree.step_weight), between(0, 1e6), "gigpo: weight of the step advantage"},
      {KEY(algorithm.tree.selector.url),
       {},
       "meta_agent: an OpenAI-compatible server, as in http://127.0.0.1:8000/v1"},
      {KEY(algorithm.tree.selector.model), {}, "Name of its model"},
      {KEY(algorithm.tree.selector.api_key_env),
       {},
       "Environment variable that holds its key; empty: none is sent"},
      {KEY(algorithm.tree.selector.max_tokens), between(1, 1e6), "Tokens of an answer"},
      {KEY(algorithm.tree.selector.timeout_s), above_zero(86400), "Seconds an answer may take"},
      {KEY(algorithm.tree.selector.inject),
       {},
       "Let it write the action of a branch (never trained on)"},
      {KEY(algorithm.tree.selector.price_prompt), between(0, 1e9),
       "Price of a million tokens it reads, for budget/selector_cost"},
      {KEY(algorithm.tree.selector.price_completion), between(0, 1e9),
       "Price of a million tokens it writes"},
  };
}

std::vector<Key> learner_keys() {
  return {
      {KEY(learner.loss), kLosses,
       "Policy loss (docs/learner.md); keys left at auto or -1 below are its published form"},
      {KEY(learner.clip_ratio_low), between(-1, 1),
       "Clip of the probability ratio, below 1; -1: the loss's own"},
      {KEY(learner.clip_ratio_high), between(-1, 100),
       "Clip of the probability ratio, above 1; -1: the loss's own"},
      {KEY(learner.clip_ratio_c), between(-1, 1e6),
       "Dual clip: 0 (off), more than 1, or -1 (the loss's own: 3 of ppo_clip, else off)"},
      {KEY(learner.sapo_tau_pos), above_zero(1000), "sapo: steepness of the gate, A > 0"},
      {KEY(learner.sapo_tau_neg), above_zero(1000), "sapo: steepness of the gate, A < 0"},
      {KEY(learner.rollout_is_threshold), between(0, 1e6),
       "Cap of the importance weights between sampler and learner, per token; 0: off"},
      {KEY(learner.loss_agg_mode), kLossAggregations, "How token losses become one number"},
      {KEY(learner.loss_scale_factor), between(0, 1e9),
       "Divisor of seq-mean-token-sum-norm; 0: the context's length"},
      {KEY(learner.entropy_coeff), between(0, 100), "Weight of the entropy bonus"},
      {KEY(learner.kl_loss_coef), between(0, 100),
       "Weight of the divergence from the policy that RL started from; 0: off"},
      {KEY(learner.kl_loss_type), kDivergences,
       "Its estimate: k1, k2 (whose gradient is the KL's) or k3"},
      {KEY(learner.sft_coef), between(0, 1e6),
       "Weight of cloning demonstrations beside RL (sft.episodes of them); 0: off"},
      {KEY(learner.sft_batch_size), between(1, 65536), "Demonstrations an update of RL clones"},
      {KEY(learner.ppo_epochs), between(1, 1000), "Passes over a step's trees"},
      {KEY(learner.ppo_mini_batch_size), between(0, 65536), "Trees an update; 0: the whole batch"},
      {KEY(learner.ppo_max_token_len_per_gpu), between(16, 1e9), "Packed tokens a micro-batch"},
      {KEY(learner.grad_clip), above_zero(1e9), "Greatest norm of the gradient"},
      {KEY(learner.max_bad_steps), between(1, 1e6),
       "Steps in a row whose loss or gradient is not finite before the run stops; each is skipped "
       "and saved for replay"},
      {KEY(learner.rollout_probs_diff_threshold), between(0, 1),
       "Warn of a step where the sampler's and the learner's probabilities differ by more in the "
       "mean; 0: never"},
      {KEY(learner.threads), between(0, 4096),
       "Threads of the learner; 0: one a core. Equal runs need an equal number"},
      {KEY(learner.packing), kPackings,
       "Compute each token of a tree once, or each path by itself"},
      {KEY(learner.dtype), kLearnerTypes,
       "Type of forward and backward passes; the weights that are updated are float32"},
      {KEY(learner.gradient_checkpointing),
       {},
       "Compute a layer again in the backward pass in place of keeping its activations"},
      {KEY(learner.lora.rank), between(0, 65536), "Rank of the adapters; 0: train all weights"},
      {KEY(learner.lora.alpha), above_zero(1e6), "Their scale is alpha / rank"},
      {KEY(learner.lora.targets), kProjections, "Projections that have one"},
      {KEY(learner.optim.lr), between(0, 100), "Learning rate after warm-up"},
      {KEY(learner.optim.lr_warmup_steps), between(0, 1e9), "Updates of linear warm-up"},
      {KEY(learner.optim.lr_scheduler), kSchedulers, "Course of the learning rate after warm-up"},
      {KEY(learner.optim.beta1), below(0, 1), "AdamW: decay of the first moment"},
      {KEY(learner.optim.beta2), below(0, 1), "AdamW: decay of the second moment"},
      {KEY(learner.optim.eps), above_zero(1), "AdamW: added to the denominator"},
      {KEY(learner.optim.weight_decay), between(0, 100), "AdamW: decoupled weight decay"},
  };
}

std::vector<Key> sft_keys() {
  return {
      {KEY(sft.episodes), between(0, 1e9), "Noisy oracle episodes to clone; 0: no warm start"},
      {KEY(sft.noise), between(0, 1), "Share of the oracle's turns that are mistakes"},
      {KEY(sft.steps), between(0, 1e9), "Updates"},
      {KEY(sft.batch_size), between(1, 65536), "Episodes an update"},
      {KEY(sft.depth_min), kDepths, "Least length of a task's chain"},
      {KEY(sft.depth_max), kDepths, "Greatest length of a task's chain"},
      {KEY(sft.optim.lr), between(0, 100), "Learning rate after warm-up"},
      {KEY(sft.optim.lr_warmup_steps), between(0, 1e9), "Updates of linear warm-up"},
      {KEY(sft.optim.lr_scheduler), kSchedulers, "Course of the learning rate after warm-up"},
      {KEY(sft.optim.beta1), below(0, 1), "AdamW: decay of the first moment"},
      {KEY(sft.optim.beta2), below(0, 1), "AdamW: decay of the second moment"},
      {KEY(sft.optim.eps), above_zero(1), "AdamW: added to the denominator"},
      {KEY(sft.optim.weight_decay), between(0, 100), "AdamW: decoupled weight decay"},
  };
}

std::vector<Key> eval_and_trainer_keys() {
  return {
      {KEY(eval.n), between(0, 1e6), "Held-out tasks; 0: no evaluation"},
      {KEY(eval.depth_min), kDepths, "Least length of a task's chain"},
      {KEY(eval.depth_max), kDepths, "Greatest length of a task's chain"},
      {KEY(eval.greedy), {}, "Also evaluate at temperature 0"},
      {KEY(trainer.total_steps), between(0, 1e9), "Steps, unless the budget ends first"},
      {KEY(trainer.save_freq), between(0, 1e9), "Steps between checkpoints; 0: only the last step"},
      {KEY(trainer.test_freq), between(0, 1e9),
       "Steps between evaluations; 0: only before and after"},
      {KEY(trainer.keep_last), between(1, 1e6), "Newest checkpoints kept"},
      {KEY(trainer.keep_best), between(0, 1e6),
       "Checkpoints kept besides, by success on the held-out tasks; then every evaluation saves "
       "one"},
      {KEY(trainer.staleness_threshold), between(0, 1),
       "Versions of the weights that a step's trees may be behind; 1: the next step is rolled out "
       "while this one is trained on"},
      {KEY(trainer.logger), kLoggers, "Where metrics go: metrics.jsonl, TensorBoard event files"},
      {KEY(budget.unit), kBudgetUnits, "What is counted"},
      {KEY(budget.limit), between(0, 1e18), "Training stops when this much is spent; 0: no limit"},
  };
}

std::vector<Key> env_keys() {
  return {
      {KEY(env.backend), kBackends,
       "What makes environments: Linux namespaces here, or a container engine (Docker, podman)"},
      {KEY(env.image),
       {},
       "Image of tasks that name none: host, a directory (./DIR) or an archive; for containers an "
       "image held by the engine, or an archive"},
      {KEY(env.engine_socket),
       {},
       "container: the engine's unix socket; empty: DOCKER_HOST, or the first usual place"},
      {KEY(env.network), {}, "Whether tasks reach the network"},
      {KEY(env.memory_mb), between(8, 1048576),
       "Memory of an environment whose task does not say, MiB"},
      {KEY(env.disk_mb), between(1, 1048576),
       "What an environment whose task does not say may write, MiB"},
      {KEY(env.pids), between(4, 100000), "Processes of an environment"},
      {KEY(env.cpus), above_zero(4096), "Cores of an environment whose task does not say"},
      {KEY(env.snapshots), kSnapshots,
       "Durable snapshots of environments: none, where episodes branch, after every turn; `trace "
       "fork` and `trace replay` open them"},
      {KEY(env.inject_delay_ms), between(0, 60000),
       "Random delay of command completion up to this; for tests of determinism"},
  };
}

#undef KEY

std::vector<Key> make_keys() {
  std::vector<Key> all;
  for (const auto& group : {top_keys(), model_keys(), data_keys(), rollout_keys(), algorithm_keys(),
                            learner_keys(), sft_keys(), eval_and_trainer_keys(), env_keys()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

}  // namespace

const std::vector<Key>& keys() {
  static const std::vector<Key> all = make_keys();
  return all;
}

const std::vector<Section>& sections() {
  static const std::vector<Section> all = {
      {"", "the run"},
      {"model", "the policy's shape and start"},
      {"data", "the tasks to train on"},
      {"rollout", "how episodes are run and sampled"},
      {"algorithm", "how episodes are credited"},
      {"algorithm.tree", "where episodes branch, and the estimators' switches"},
      {"algorithm.tree.selector", "the external model of meta_agent"},
      {"learner", "how weights are updated"},
      {"learner.lora", "low-rank adapters (LoRA)"},
      {"learner.optim", "AdamW"},
      {"sft", "the warm start: cloning of oracle episodes"},
      {"sft.optim", "AdamW of the warm start"},
      {"eval", "held-out tasks"},
      {"trainer", "the loop"},
      {"budget", "when to stop; every unit is counted anyway"},
      {"env", "the sandbox of an episode"},
  };
  return all;
}

const Key* find_key(const std::string& path) {
  static const auto by_path = [] {
    std::unordered_map<std::string, const Key*> map;
    for (const Key& key : keys()) map[key.path] = &key;
    return map;
  }();
  const auto found = by_path.find(path);
  return found == by_path.end() ? nullptr : found->second;
}

bool is_section(const std::string& path) {
  return std::any_of(sections().begin(), sections().end(),
                     [&](const Section& section) { return section.path == path; });
}

std::string parent_of(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

std::string last_of(const std::string& path) { return path.substr(path.rfind('.') + 1); }

}  // namespace espalier::common::config
