// The configuration of a run: typed structs with defaults, read from YAML with key=value overrides.
//
// One table (config_table.cc) names every key with its field, default, range and help; it parses,
// prints
// (--dry-run, the run's config.yaml) and documents (`espalier help config`). Unknown or duplicate
// keys, wrong types and values out of range are ConfigErrors with file, line, the key, the value
// seen, the values allowed and the nearest known key. Names follow what users of RL trainers know.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace espalier::common {

struct ModelConfig {
  std::string path;             // Hugging Face directory to start from; empty: from scratch
  std::string device = "auto";  // auto | cpu | cuda
  int hidden_size = 64;
  int num_hidden_layers = 3;
  int num_attention_heads = 4;
  int num_key_value_heads = 4;
  int intermediate_size = 192;
  int max_position_embeddings = 256;  // context, tokens
  double rope_theta = 10000.0;
  bool qk_norm = true;
};

struct DataConfig {
  std::vector<std::string> families;  // nursery families; empty: the base tier
  int depth_min = 1;
  int depth_max = 4;
  int train_batch_size = 16;     // tasks (trees) a step
  std::string trees;             // train offline on the stored trees of this run; empty: roll out
  int from_step = -1;            // of trees: its checkpoint and its batch come first
  bool counterfactuals = false;  // of trees: branches of `trace replay` are trained on, too
};

struct RolloutConfig {
  int n = 8;  // root episodes a tree (G)
  double temperature = 1.0;
  double top_p = 1.0;
  int top_k = -1;
  int max_response_length = 16;     // tokens an action
  int max_observation_length = 48;  // tokens of an observation shown to the policy
  int max_assistant_turns = 0;      // 0: the task's own limit
  double command_timeout_s = 10.0;
  int max_live = 256;  // environments at once
  int max_kept = 4;    // environments a tree keeps for rules that look back
  int infra_retries = 2;
  int workers = 0;  // TBB threads; 0: one a core
};

struct SelectorConfig {
  std::string url;  // of an OpenAI-compatible server: ".../v1"; meta_agent needs one
  std::string model = "default";
  std::string api_key_env;  // environment variable that holds the key; empty: none is sent
  int max_tokens = 256;
  double timeout_s = 60;
  bool inject = true;           // let it write the first branch's action
  double price_prompt = 0;      // a million tokens
  double price_completion = 0;  // a million tokens
};

struct TreeConfig {
  std::string fork_rule = "online_entropy";
  int branches = 2;       // K
  int branches_hard = 4;  // K of tasks solved in less than 10 % so far; 0: as branches
  int max_forks = 4;      // a tree
  double quantile = 0.7;
  double probability = 0.3;
  int min_turns_between = 1;
  double consecutive_penalty = 0;
  double visit_penalty = 0.5;
  double exploration = 0.25;
  std::string weight = "auto";    // auto | visitation | linear | sqrt | once
  std::string value = "auto";     // auto | leaf | hierarchical | entropy
  std::string baseline = "auto";  // auto | loo | mean | parent
  std::string sigma = "auto";     // auto | off | prompt | batch | parent
  std::string step = "auto";      // auto | segment | turn
  double kappa = 0;
  double gamma = 1;
  double lam = 0.95;
  double step_weight = 1;
  SelectorConfig selector;
};

struct AlgorithmConfig {
  std::string adv_estimator = "tree_loo";
  std::string filter_groups = "none";  // none | prompt | fork
  int overlong_length = 0;             // action tokens an episode; 0: no penalty
  int overlong_buffer = 0;
  double overlong_penalty = 1;
  TreeConfig tree;
};

struct OptimConfig {
  double lr = 5e-4;
  int lr_warmup_steps = 10;
  std::string lr_scheduler = "constant";  // constant | linear | cosine
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;
};

/// The linear projections of a layer.
inline const std::vector<std::string> kProjections = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                      "gate_proj", "up_proj", "down_proj"};

struct LoraConfig {
  int rank = 0;  // 0: all weights are trained
  double alpha = 16;
  std::vector<std::string> targets = kProjections;
};

struct LearnerConfig {
  std::string loss = "ppo_clip";
  double clip_ratio_low = -1;   // -1: the loss's published value
  double clip_ratio_high = -1;  // -1: likewise
  double clip_ratio_c = -1;     // dual clip; 0: off; -1: likewise
  double sapo_tau_pos = 1.0;
  double sapo_tau_neg = 1.05;
  double rollout_is_threshold = 2.0;   // truncated importance sampling, token level; 0: off
  std::string loss_agg_mode = "auto";  // auto: the loss's published form
  double loss_scale_factor = 0;        // 0: the context's length
  double entropy_coeff = 0.0;
  double kl_loss_coef = 0.0;
  std::string kl_loss_type = "k3";  // k1 | k2 | k3
  double sft_coef = 0.0;            // of cloning demonstrations beside RL
  int sft_batch_size = 16;
  int ppo_epochs = 1;
  int ppo_mini_batch_size = 0;            // trees an update; 0: the whole batch
  int ppo_max_token_len_per_gpu = 16384;  // packed tokens a micro-batch
  double grad_clip = 1.0;
  int max_bad_steps = 3;                      // in a row, before the run stops
  double rollout_probs_diff_threshold = 0.1;  // a step beyond it is warned of; 0: never
  std::string packing = "packed";             // packed | linear
  std::string dtype = "float32";              // float32 | bfloat16: of passes; masters are float32
  bool gradient_checkpointing = false;
  int threads = 0;  // of the learner; 0: one a core
  LoraConfig lora;
  OptimConfig optim;
};

struct SftConfig {
  int episodes = 400;   // noisy oracle episodes; 0: no warm start
  double noise = 0.15;  // share of turns that are mistakes
  int steps = 250;
  int batch_size = 64;
  int depth_min = 1;
  int depth_max = 2;
  OptimConfig optim = {3e-3, 50, "linear", 0.9, 0.98, 1e-8, 0.01};
};

struct EvalConfig {
  int n = 320;  // held-out tasks
  int depth_min = 1;
  int depth_max = 4;
  bool greedy = true;  // also evaluate at temperature 0
};

struct TrainerConfig {
  int total_steps = 60;
  int save_freq = 10;  // steps between checkpoints; the last step always saves
  int test_freq = 20;  // steps between evaluations
  int keep_last = 3;
  int keep_best = 0;            // by held-out success, besides
  int staleness_threshold = 0;  // versions the trees may be behind; 1: roll out a step ahead
  std::vector<std::string> logger = {"jsonl", "tensorboard"};
};

struct BudgetConfig {
  std::string unit = "generated_tokens";
  double limit = 0;  // 0: none
};

struct EnvConfig {
  std::string backend = "sandbox";
  std::string image = "host";  // of tasks that name none
  std::string engine_socket;   // of the container backend; empty: found
  bool network = false;
  int memory_mb = 256;
  int disk_mb = 64;
  int pids = 64;
  double cpus = 1.0;
  std::string snapshots = "keep-none";  // keep-none | keep-branching | keep-all
  double inject_delay_ms = 0;           // random delay of command completion; for determinism tests
};

struct Config {
  std::string name = "run";
  std::string run_dir = "runs";
  uint64_t seed = 1;
  bool deterministic = false;  // lock-step rounds: same seed, same trees and weights, bit for bit
  std::string durability = "batch";  // none | batch | sync: the journal
  ModelConfig model;
  DataConfig data;
  RolloutConfig rollout;
  AlgorithmConfig algorithm;
  LearnerConfig learner;
  SftConfig sft;
  EvalConfig eval;
  TrainerConfig trainer;
  BudgetConfig budget;
  EnvConfig env;
};

/// Reads the file and applies overrides ("learner.optim.lr=1e-4", in order). Errors: ConfigError.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides);

/// Parses text as if it were a file called `origin`.
Config parse_config(const std::string& yaml, const std::string& origin,
                    const std::vector<std::string>& overrides);

/// The whole configuration as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

/// Every key: type, default, range, meaning. For `espalier help config`.
std::string config_help();

}  // namespace espalier::common
