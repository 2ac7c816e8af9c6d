#include <algorithm>
#include <array>
#include <limits>
#include <map>

#include "common/config_table.h"

namespace espalier::common::config {
namespace {

/// Names that verl, TRL, OpenRLHF and their like use, as the end of a path, and the key they mean
/// here.
const std::map<std::string, std::string>& aliases() {
  static const std::map<std::string, std::string> all = {
      {"optim.lr", "learner.optim.lr"},
      {"learning_rate", "learner.optim.lr"},
      {"actor_learning_rate", "learner.optim.lr"},
      {"lr_scheduler_type", "learner.optim.lr_scheduler"},
      {"warmup_style", "learner.optim.lr_scheduler"},
      {"warmup_steps", "learner.optim.lr_warmup_steps"},
      {"num_warmup_steps", "learner.optim.lr_warmup_steps"},
      {"warmup_ratio", "learner.optim.lr_warmup_steps"},
      {"lr_warmup_steps_ratio", "learner.optim.lr_warmup_steps"},
      {"adam_beta1", "learner.optim.beta1"},
      {"adam_beta2", "learner.optim.beta2"},
      {"adam_epsilon", "learner.optim.eps"},
      {"max_grad_norm", "learner.grad_clip"},
      {"max_norm", "learner.grad_clip"},
      {"clip_grad", "learner.grad_clip"},
      {"epsilon", "learner.clip_ratio_low"},
      {"clip_ratio", "learner.clip_ratio_low"},
      {"cliprange", "learner.clip_ratio_low"},
      {"eps_clip", "learner.clip_ratio_low"},
      {"epsilon_high", "learner.clip_ratio_high"},
      {"eps_clip_high", "learner.clip_ratio_high"},
      {"dual_clip", "learner.clip_ratio_c"},
      {"tis_imp_ratio_cap", "learner.rollout_is_threshold"},
      {"loss_type", "learner.loss"},
      {"loss_mode", "learner.loss"},
      {"policy_loss", "learner.loss"},
      {"entropy_coef", "learner.entropy_coeff"},
      {"kl_coef", "learner.kl_loss_coef"},
      {"init_kl_coef", "learner.kl_loss_coef"},
      {"use_kl_loss", "learner.kl_loss_coef"},
      {"beta", "learner.kl_loss_coef"},
      {"lora_rank", "learner.lora.rank"},
      {"lora_alpha", "learner.lora.alpha"},
      {"target_modules", "learner.lora.targets"},
      {"enable_gradient_checkpointing", "learner.gradient_checkpointing"},
      {"filter_groups.enable", "algorithm.filter_groups"},
      {"overlong_buffer.len", "algorithm.overlong_buffer"},
      {"overlong_buffer.penalty_factor", "algorithm.overlong_penalty"},
      {"entropy_loss_coef", "learner.entropy_coeff"},
      {"num_iterations", "learner.ppo_epochs"},
      {"max_epochs", "learner.ppo_epochs"},
      {"mini_batch_size", "learner.ppo_mini_batch_size"},
      {"ppo_micro_batch_size", "learner.ppo_max_token_len_per_gpu"},
      {"ppo_micro_batch_size_per_gpu", "learner.ppo_max_token_len_per_gpu"},
      {"micro_train_batch_size", "learner.ppo_max_token_len_per_gpu"},
      {"gradient_accumulation_steps", "learner.ppo_max_token_len_per_gpu"},
      {"num_generations", "rollout.n"},
      {"group_size", "rollout.n"},
      {"n_samples_per_prompt", "rollout.n"},
      {"max_completion_length", "rollout.max_response_length"},
      {"max_new_tokens", "rollout.max_response_length"},
      {"max_tokens", "rollout.max_response_length"},
      {"generate_max_len", "rollout.max_response_length"},
      {"max_turns", "rollout.max_assistant_turns"},
      {"timeout", "rollout.command_timeout_s"},
      {"num_workers", "rollout.workers"},
      {"advantage_estimator", "algorithm.adv_estimator"},
      {"norm_adv_by_std_in_grpo", "algorithm.tree.sigma"},
      {"scale_rewards", "algorithm.tree.sigma"},
      {"discount", "algorithm.tree.gamma"},
      {"gae_lambda", "algorithm.tree.lam"},
      {"branch_factor", "algorithm.tree.branches"},
      {"num_branches", "algorithm.tree.branches"},
      {"num_forks", "algorithm.tree.max_forks"},
      {"per_device_train_batch_size", "data.train_batch_size"},
      {"rollout_batch_size", "data.train_batch_size"},
      {"batch_size", "data.train_batch_size"},
      {"max_steps", "trainer.total_steps"},
      {"total_training_steps", "trainer.total_steps"},
      {"total_epochs", "trainer.total_steps"},
      {"num_train_epochs", "trainer.total_steps"},
      {"num_episodes", "trainer.total_steps"},
      {"save_steps", "trainer.save_freq"},
      {"eval_steps", "trainer.test_freq"},
      {"save_total_limit", "trainer.keep_last"},
      {"max_actor_ckpt_to_keep", "trainer.keep_last"},
      {"report_to", "trainer.logger"},
      {"use_wandb", "trainer.logger"},
      {"model_name_or_path", "model.path"},
      {"model_path", "model.path"},
      {"pretrain", "model.path"},
      {"max_model_len", "model.max_position_embeddings"},
      {"max_length", "model.max_position_embeddings"},
      {"max_prompt_length", "model.max_position_embeddings"},
      {"context_length", "model.max_position_embeddings"},
      {"experiment_name", "name"},
      {"run_name", "name"},
      {"output_dir", "run_dir"},
      {"save_path", "run_dir"},
      {"default_local_dir", "run_dir"},
  };
  return all;
}

/// Names for something that does not exist here.
const std::map<std::string, std::string>& absent() {
  static const std::string kNoKl =
      "; there is no KL term in the reward here; learner.kl_loss_coef is a term of the loss";
  static const std::map<std::string, std::string> all = {
      {"use_kl_in_reward", kNoKl},
      {"kl_ctrl.kl_coef", kNoKl},
  };
  return all;
}

std::string did_you_mean(const std::string& name) { return "; did you mean '" + name + "'?"; }

/// Typing errors a name of this length may have and still be recognised.
size_t tolerance(size_t length) { return std::max<size_t>(1, length / 3); }

std::string root_of(const std::string& path) { return path.substr(0, path.find('.')); }

/// The ends of a path, longest first: "a.b.c", "b.c", "c".
std::vector<std::string> ends_of(const std::string& path) {
  std::vector<std::string> ends = {path};
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    ends.push_back(path.substr(dot + 1));
  }
  return ends;
}

/// What another trainer's name means; empty when it is none.
std::string by_alias(const std::string& unknown) {
  for (const std::string& end : ends_of(unknown)) {
    if (const auto found = absent().find(end); found != absent().end()) return found->second;
    if (const auto found = aliases().find(end); found != aliases().end()) {
      // learner.optim.lr, or its like where the unknown name stands: sft.optim.lr.
      for (const std::string& like :
           {parent_of(unknown) + "." + last_of(found->second),
            root_of(unknown) + found->second.substr(root_of(found->second).size())}) {
        if (find_key(like)) return did_you_mean(like);
      }
      return did_you_mean(found->second);
    }
    if (end != unknown && end.find('.') != std::string::npos && find_key(end)) {
      return did_you_mean(end);
    }
  }
  return "";
}

std::string by_distance(const std::string& unknown) {
  // Fewest errors first; then the same top section; then the order of the table, where the main
  // section comes first.
  using Score = std::pair<size_t, bool>;
  Score best = {std::numeric_limits<size_t>::max(), true};
  std::string nearest;
  const std::string last = last_of(unknown);
  const auto consider = [&](const std::string& path) {
    const size_t whole = edit_distance(unknown, path);
    const size_t end = edit_distance(last, last_of(path));
    if (whole > tolerance(last.size()) && end > last.size() / 4) return;
    // The right name in the wrong section is one error, however long the section's name.
    const size_t elsewhere = end + (parent_of(path) == parent_of(unknown) ? 0 : 1);
    const Score score = {std::min(whole, elsewhere), root_of(path) != root_of(unknown)};
    if (score >= best) return;
    best = score;
    nearest = path;
  };
  for (const Key& key : keys()) consider(key.path);
  for (const Section& section : sections()) {
    if (!section.path.empty()) consider(section.path);
  }
  return nearest.empty() ? "" : did_you_mean(nearest);
}

}  // namespace

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string hint_for_path(const std::string& unknown) {
  std::string hint = by_alias(unknown);
  return hint.empty() ? by_distance(unknown) : hint;
}

std::string hint_for_choice(const std::string& unknown, const Choices& choices) {
  const auto nearest = std::min_element(
      choices.begin(), choices.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(unknown, a) < edit_distance(unknown, b);
      });
  if (nearest == choices.end() || edit_distance(unknown, *nearest) > tolerance(unknown.size())) {
    return "";
  }
  return did_you_mean(*nearest);
}

bool is_foreign_section(const std::string& path) {
  static const std::array<std::string, 7> kRoots = {"actor_rollout_ref", "actor", "critic", "ref",
                                                    "reward_model",      "optim", "grpo"};
  return std::find(kRoots.begin(), kRoots.end(), root_of(path)) != kRoots.end();
}

}  // namespace espalier::common::config
