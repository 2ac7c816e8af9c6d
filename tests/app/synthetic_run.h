// A made-up run directory for tests of the report: metrics, summary and trees as training writes
// them.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/files.h"
#include "common/rng.h"
#include "tree/advantage.h"
#include "tree/store.h"
#include "tree/trace_tree.h"

namespace espalier::app::testing {

/// Builds trees turn by turn: every call adds one node with plausible numbers.
class TreeBuilder {
 public:
  TreeBuilder(std::string task, std::string family, std::string prompt, uint64_t step) {
    tree_.task = std::move(task);
    tree_.family = std::move(family);
    tree_.prompt = std::move(prompt);
    tree_.prompt_tokens = {1, 2, 3};
    tree_.step = step;
    tree_.index = step * 16;
    tree_.run_seed = 7;
    tree_.id = tree::prompt_id(tree_);
  }

  int turn(int parent, const std::string& command, const std::string& output, int exit_code = 0) {
    tree::Node node;
    node.parent = parent;
    for (const tree::Node& other : tree_.nodes) node.branch += other.parent == parent;
    node.turn = parent < 0 ? 0 : tree_.nodes[parent].turn + 1;
    const bool forked = node.branch > 0;
    node.path = parent < 0
                    ? tree::root_path(node.branch)
                    : tree::child_path(tree_.nodes[parent].path, node.turn, node.branch, forked);
    if (parent >= 0 && forked) tree_.nodes[parent].fork_rule = "online_entropy";
    node.command = command;
    node.observation = output;
    node.exit_code = exit_code;
    node.action = {5, 6, 7, 2};
    node.log_probs = {-0.2f, -0.9f, -0.1f, -0.01f};
    node.entropies = {0.5f, 1.1f, 0.2f, 0.05f};
    node.loss_mask = {1, 1, 1, 1};
    node.first_entropy = 0.5f;
    node.policy_version = tree_.step;
    node.id = tree::node_id(parent < 0 ? tree_.id : tree_.nodes[parent].id, node);
    tree_.nodes.push_back(node);
    return static_cast<int>(tree_.nodes.size()) - 1;
  }

  void reward(int leaf, double value) {
    tree_.nodes[leaf].outcome = tree::Outcome::rewarded;
    tree_.nodes[leaf].reward = value;
  }

  void fail(int leaf, tree::Outcome outcome, const std::string& why) {
    tree_.nodes[leaf].outcome = outcome;
    tree_.nodes[leaf].failure = why;
  }

  tree::Tree build() {
    tree::Tree tree = tree_;
    tree.canonicalise();
    tree::make_estimator("tree_loo", {})->estimate(tree);
    return tree;
  }

 private:
  tree::Tree tree_;
};

/// Eight roots on a "most" task, two forks with mixed branches, one typed failure.
inline tree::Tree forked_tree(uint64_t step,
                              const std::string& hostile_output = "opal ember\nopal opal\n") {
  TreeBuilder b("nursery:most/17/d2", "most", "most opal", step);
  for (int root = 0; root < 6; ++root) {
    int at = b.turn(-1, root == 3 ? "cat ember" : "grep -c opal *",
                    root == 3 ? hostile_output : "basil:1\nember:2\nyarrow:6\n");
    if (root == 1 || root == 4) {
      const int good = b.turn(at, "cp yarrow out", "");
      b.reward(b.turn(good, "exit", ""), 1);
      const int bad = b.turn(at, "cp ember out", "");
      b.reward(b.turn(bad, "exit", ""), 0);
      continue;
    }
    if (root == 2) {
      at = b.turn(at, "cp yarow out", "cp: cannot stat 'yarow': No such file or directory\n", 1);
      at = b.turn(at, "cp yarrow out", "");
    } else if (root == 5) {
      at = b.turn(at, "sleep 100", "");
      b.fail(at, tree::Outcome::infra_failed, "the sandbox went away");
      continue;
    } else {
      at = b.turn(at, root == 0 ? "cp yarrow out" : "cp basil out", "");
    }
    b.reward(b.turn(at, "exit", ""), root == 3 ? 0 : 1);
  }
  for (int root = 6; root < 8; ++root) b.reward(b.turn(-1, "exit", ""), 0);
  return b.build();
}

/// A fix task with a fork deep in the chain.
inline tree::Tree chain_tree(uint64_t step) {
  TreeBuilder b("nursery:fix/4/d3", "fix", "run", step);
  for (int root = 0; root < 4; ++root) {
    int at = b.turn(-1, "sh run", "need exec brick\n", 1);
    at = b.turn(at, root == 2 ? "chmod +r brick" : "chmod +x brick", "");
    at = b.turn(at, "sh run", root == 2 ? "need exec brick\n" : "need dir amber\n", 1);
    if (root == 1) {
      int left = b.turn(at, "mkdir amber", "");
      left = b.turn(left, "sh run", "ok\n");
      b.reward(b.turn(left, "exit", ""), 1);
      int right = b.turn(at, "touch amber", "");
      right = b.turn(right, "sh run", "need dir amber\n", 1);
      b.reward(b.turn(right, "exit", ""), 0);
    } else {
      at = b.turn(at, root == 2 ? "exit" : "mkdir amber", "");
      if (root == 2) {
        b.reward(at, 0);
        continue;
      }
      at = b.turn(at, "sh run", "ok\n");
      b.reward(b.turn(at, "exit", ""), 1);
    }
  }
  return b.build();
}

inline void write_metrics(const std::filesystem::path& file, uint64_t seed, int steps) {
  std::ofstream out(file);
  common::Rng rng(common::derive_key(seed, "synthetic", "metrics"));
  for (int step = 0; step <= steps; ++step) {
    nlohmann::json line = {{"step", step}};
    const double share = double(step) / steps, skill = 0.35 + 0.34 * (1 - std::exp(-3 * share));
    if (step % 20 == 0) {
      line["val/success/mean"] = skill + 0.01 * rng.normal();
      line["val/success/se"] = 0.026;
      line["val/greedy/mean"] = skill + 0.15 - 0.08 * share;
    }
    if (step > 0) {
      line["critic/score/mean"] = skill + 0.05 * rng.normal();
      line["budget/generated_tokens"] = 4010 * step;
      line["actor/entropy"] = 0.6 * std::exp(-share) + 0.02 * rng.normal();
      line["actor/grad_norm"] = 0.8 + 0.2 * rng.uniform();
      line["actor/pg_loss"] = -0.02 + 0.01 * rng.normal();
      line["actor/ppo_kl"] = 1e-4 * rng.uniform();
      line["response_length/mean"] = 4.4 + 0.2 * rng.normal();
      line["num_turns/mean"] = 3.1 + 0.1 * rng.normal();
      line["tree/forks"] = 2.4 + rng.uniform();
      line["tree/mixed_fork_rate"] = 0.26 + 0.05 * rng.normal();
      line["env/infra_failed_rate"] = 0;
      line["timing_s/gen"] = 0.9;
      line["timing_s/update_actor"] = 0.3;
    }
    out << line.dump() << "\n";
  }
}

inline nlohmann::json synthetic_summary(const std::string& name, uint64_t seed, int steps) {
  nlohmann::json before = {{"mean", 0.35}, {"se", 0.027}, {"n", 320}, {"greedy_mean", 0.55}};
  nlohmann::json after = {{"mean", 0.684}, {"se", 0.026}, {"n", 320}, {"greedy_mean", 0.79}};
  int i = 0;
  for (const char* family : {"find", "chain", "cfg", "most", "fix", "tar", "perm", "maze"}) {
    before["by_family"][family] = {{"mean", 0.2 + 0.04 * i}, {"se", 0.07}, {"n", 40}};
    after["by_family"][family] = {{"mean", 0.55 + 0.05 * i}, {"se", 0.07}, {"n", 40}};
    ++i;
  }
  return {{"name", name},
          {"version", "0.1.0"},
          {"seed", seed},
          {"steps", steps},
          {"eval", {{"before", before}, {"after", after}}},
          {"budget",
           {{"generated_tokens", 240600},
            {"prefill_tokens", 512345},
            {"cached_prefill_tokens", 730000},
            {"env_steps", 58211},
            {"forks", 2811},
            {"leaves", 12480},
            {"verifier_runs", 12478},
            {"selector_calls", 0},
            {"infra_failures", 2},
            {"learner_tokens", 901234},
            {"learner_tokens_linear", 1432100},
            {"sandbox_seconds", 812.5}}},
          {"wall_s",
           {{"setup", 0.6},
            {"sft", 41.2},
            {"rollout", 58.9},
            {"train", 20.1},
            {"eval", 30.4},
            {"total", 153.9}}},
          {"model", {{"parameters", 172032}}}};
}

struct SyntheticRun {
  uint64_t seed = 7;
  int steps = 60;
  bool finished = true;
  std::string hostile_output = "opal ember\nopal opal\n";
};

inline std::filesystem::path write_synthetic_run(const std::filesystem::path& directory,
                                                 const SyntheticRun& run = {}) {
  std::filesystem::create_directories(directory / "trees");
  write_metrics(directory / "metrics.jsonl", run.seed, run.steps);
  tree::write_trees(tree::shard_path(directory, 1),
                    {chain_tree(1), forked_tree(1, run.hostile_output)});
  tree::write_trees(tree::shard_path(directory, run.steps),
                    {forked_tree(run.steps, run.hostile_output), chain_tree(run.steps)});
  if (run.finished)
    common::write_file_atomically(
        directory / "summary.json",
        synthetic_summary(directory.filename().string(), run.seed, run.steps).dump(2));
  return directory;
}

}  // namespace espalier::app::testing
