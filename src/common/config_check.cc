#include "common/config_table.h"

namespace espalier::common::config {
namespace {

std::string text(int value) { return std::to_string(value); }

void check_depths(const char* section, int low, int high, std::vector<Conflict>& found) {
  if (low <= high) return;
  const std::string prefix = std::string(section) + ".depth_";
  found.push_back(
      {{prefix + "min", prefix + "max"},
       prefix + "min " + text(low) + " is greater than " + prefix + "max " + text(high)});
}

void check_model(const ModelConfig& model, std::vector<Conflict>& found) {
  const int heads = model.num_attention_heads;
  if (model.hidden_size % heads != 0) {
    found.push_back({{"model.hidden_size", "model.num_attention_heads"},
                     "model.hidden_size " + text(model.hidden_size) +
                         " is not a multiple of model.num_attention_heads " + text(heads)});
  } else if (model.hidden_size / heads % 2 != 0) {
    found.push_back({{"model.hidden_size", "model.num_attention_heads"},
                     "model.hidden_size " + text(model.hidden_size) + " over " + text(heads) +
                         " heads is " + text(model.hidden_size / heads) +
                         " a head; rotary positions need an even number"});
  }
  if (heads % model.num_key_value_heads != 0) {
    found.push_back({{"model.num_key_value_heads", "model.num_attention_heads"},
                     "model.num_key_value_heads " + text(model.num_key_value_heads) +
                         " does not divide model.num_attention_heads " + text(heads)});
  }
}

void check_rollout(const Config& config, std::vector<Conflict>& found) {
  const RolloutConfig& rollout = config.rollout;
  if (rollout.top_k == 0) {
    found.push_back({{"rollout.top_k"},
                     "rollout.top_k 0 samples from no token; allowed: -1 (all), "
                     "or 1 and more"});
  }
  const int context = config.model.max_position_embeddings;
  if (rollout.max_response_length >= context) {
    found.push_back({{"rollout.max_response_length", "model.max_position_embeddings"},
                     "rollout.max_response_length " + text(rollout.max_response_length) +
                         " leaves no room for a prompt in model.max_position_embeddings " +
                         text(context)});
  }
  const bool forks = config.algorithm.tree.fork_rule != "none";
  const std::string& estimator = config.algorithm.adv_estimator;
  const bool other_prompts = estimator == "reinforce_pp" || estimator == "gae";
  if (rollout.n < 2 && !forks && !other_prompts && config.data.trees.empty()) {
    found.push_back({{"rollout.n", "algorithm.adv_estimator"},
                     "rollout.n " + text(rollout.n) + " leaves algorithm.adv_estimator '" +
                         estimator + "' nothing to compare with; allowed: 2 and more"});
  }
}

void check_selector(const TreeConfig& tree, std::vector<Conflict>& found) {
  if (tree.fork_rule == "meta_agent" && tree.selector.url.empty())
    found.push_back({{"algorithm.tree.fork_rule", "algorithm.tree.selector.url"},
                     "algorithm.tree.fork_rule meta_agent needs algorithm.tree.selector.url, an "
                     "OpenAI-compatible server"});
}

void check_learner(const Config& config, std::vector<Conflict>& found) {
  const LearnerConfig& learner = config.learner;
  const int context = config.model.max_position_embeddings;
  if (learner.ppo_max_token_len_per_gpu < context) {
    found.push_back(
        {{"learner.ppo_max_token_len_per_gpu", "model.max_position_embeddings"},
         "learner.ppo_max_token_len_per_gpu " + text(learner.ppo_max_token_len_per_gpu) +
             " is less than one path of model.max_position_embeddings " + text(context)});
  }
  if (learner.ppo_mini_batch_size > config.data.train_batch_size) {
    found.push_back({{"learner.ppo_mini_batch_size", "data.train_batch_size"},
                     "learner.ppo_mini_batch_size " + text(learner.ppo_mini_batch_size) +
                         " is greater than data.train_batch_size " +
                         text(config.data.train_batch_size)});
  }
  if (learner.clip_ratio_c != 0 && learner.clip_ratio_c != -1 && learner.clip_ratio_c <= 1) {
    found.push_back({{"learner.clip_ratio_c"},
                     "learner.clip_ratio_c is negative or between 0 and 1; allowed: 0 (off), more "
                     "than 1, or -1 (the loss's own)"});
  }
  for (const auto& [path, value] :
       {std::pair("learner.clip_ratio_low", learner.clip_ratio_low),
        std::pair("learner.clip_ratio_high", learner.clip_ratio_high)}) {
    if (value < 0 && value != -1)
      found.push_back({{path},
                       std::string(path) + " is negative; allowed: -1 (the loss's own), or "
                                           "0 and more"});
  }
  if (learner.lora.rank > 0 && learner.lora.targets.empty())
    found.push_back({{"learner.lora.targets", "learner.lora.rank"},
                     "learner.lora.targets is empty: nothing would be trained"});
  if (learner.sft_coef > 0 && config.sft.episodes == 0)
    found.push_back({{"learner.sft_coef", "sft.episodes"},
                     "learner.sft_coef needs demonstrations, and sft.episodes is 0"});
  const AlgorithmConfig& algorithm = config.algorithm;
  if (algorithm.overlong_buffer > algorithm.overlong_length)
    found.push_back({{"algorithm.overlong_buffer", "algorithm.overlong_length"},
                     "algorithm.overlong_buffer " + text(algorithm.overlong_buffer) +
                         " is longer than algorithm.overlong_length " +
                         text(algorithm.overlong_length)});
}

}  // namespace

std::vector<Conflict> conflicts(const Config& config) {
  std::vector<Conflict> found;
  if (config.name.empty() || config.name == "." || config.name == ".." ||
      config.name.find('/') != std::string::npos) {
    found.push_back({{"name"},
                     "name '" + config.name +
                         "' cannot name a folder in run_dir; allowed: a text "
                         "without '/' that is not empty, '.' or '..'"});
  }
  if (config.run_dir.empty()) found.push_back({{"run_dir"}, "run_dir is empty"});
  check_model(config.model, found);
  check_depths("data", config.data.depth_min, config.data.depth_max, found);
  check_depths("sft", config.sft.depth_min, config.sft.depth_max, found);
  check_depths("eval", config.eval.depth_min, config.eval.depth_max, found);
  check_rollout(config, found);
  if (config.env.backend == "container" && config.env.inject_delay_ms > 0)
    found.push_back({{"env.inject_delay_ms", "env.backend"},
                     "env.inject_delay_ms needs env.backend 'sandbox'"});
  check_selector(config.algorithm.tree, found);
  check_learner(config, found);
  return found;
}

}  // namespace espalier::common::config
