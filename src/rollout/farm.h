// The rollout farm: many live episodes on a few threads, forked at chosen turns, sealed into trees.
//
// An episode is straight-line code on a TBB task that suspends while a command runs or tokens are
// generated (rollout/suspend.h). One request gives exactly one tree; its leaves carry rewards or
// typed failures.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/bounded_queue.h"
#include "envs/task.h"
#include "policy/policy.h"
#include "policy/tokenizer.h"
#include "tree/fork_rule.h"
#include "tree/journal.h"
#include "tree/ledger.h"
#include "tree/trace_tree.h"

namespace espalier::rollout {

/// The next command of a scripted demonstrator, in place of the policy.
using Script = std::function<std::string()>;

/// Goes on from a recorded turn in place of the prompt: one episode, in a tree of that path alone.
struct Continuation {
  std::vector<tree::Node> path;      // recorded turns from a root's first on; empty: the prompt
  std::vector<policy::Token> delta;  // context tokens behind the last one's action
  int branch = 0;                    // number of the next turn among the last one's children
  std::string injected;              // the first command, in place of the policy's; empty: none
  envs::EnvironmentPtr environment;  // as it was then; null: made from the path
};

struct TreeRequest {
  envs::TaskPtr task;
  uint64_t index = 0;  // ordinal of the draw within the run: names the tree
  uint64_t step = 0;
  std::string purpose = "train";  // "train" | "eval" | "sft": part of every random key
  int roots = 8;                  // G
  bool may_fork = true;
  policy::SamplingOptions sampling;
  std::function<Script(int root)> script;  // set: demonstrations instead of the policy
  std::shared_ptr<Continuation> from;      // set: roots is 1
  std::vector<int> judged_as;  // root r's verifier gets the key of root judged_as[r]; empty: r's
};

/// Which states of environments are written down durably.
enum class KeepSnapshots {
  none,
  branching,  // before a branching
  all,        // after every turn
};

struct FarmOptions {
  uint64_t run_seed = 1;
  bool deterministic =
      false;        // lock-step rounds; decisions in an order that depends on the seed alone
  int workers = 0;  // TBB threads; 0: one a core
  size_t max_live =
      256;  // environments at once; a deterministic wave holds at most this many roots
  int infra_retries = 2;
  int max_turns = 0;  // 0: the task's own
  int max_observation_tokens = 48;
  double command_timeout_s = 10.0;
  size_t max_kept = 4;  // environments a tree keeps for a rule that looks back, beyond max_live
  KeepSnapshots snapshots = KeepSnapshots::none;
  std::string image = envs::kHostImage;  // of tasks that name none
  bool network = false;
  envs::Limits limits;
};

/// What an episode of the task starts in.
envs::EnvironmentSpec episode_environment(const envs::Task& task, const FarmOptions& options);

/// Everything the farm works with; borrowed, must outlive it. journal, ledger and rule may be null.
struct FarmParts {
  envs::Backend* backend = nullptr;
  policy::Policy* policy = nullptr;  // null only for scripted requests
  policy::TokenizerPtr tokenizer;
  tree::ForkRule* rule = nullptr;
  tree::JournalWriter* journal = nullptr;
  tree::Ledger* ledger = nullptr;
};

/// What is going on, for progress bars. Thread contract: read from any thread.
struct FarmProgress {
  std::atomic<uint64_t> episodes_started{0}, episodes_ended{0}, forks{0}, trees_sealed{0};
  std::atomic<uint64_t> generated_tokens{0}, env_steps{0}, live{0};
  std::atomic<uint64_t> fork_us{0};  // time spent forking, summed
};

using TreeQueue = common::BoundedQueue<tree::Tree>;

/// Thread contract: one owner; start() and wait() from the owner's thread.
class Farm {
 public:
  Farm(FarmParts parts, FarmOptions options);
  ~Farm();  // cancels and joins

  /// Starts rolling out; returns at once. Each request's sealed tree is pushed to `out` in order of
  /// completion. A full queue holds up the farm, so somebody pops, or it has room for all; what a
  /// closed one refuses is lost. `out` must outlive wait(). Errors: ConfigError for a request that
  /// cannot be rolled out.
  void start(std::vector<TreeRequest> requests, TreeQueue& out);
  /// Blocks until every started request is sealed. Errors: StoreError when the journal could not be
  /// written (the farm is then cancelled).
  void wait();
  /// Stops admitting, for good; live episodes end after their current command, or their verifier,
  /// with outcome `cancelled`. Every request still gives its tree; those cut short are not sealed
  /// in the journal, so that a resumed run rolls them out again.
  void cancel();
  const FarmProgress& progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// start() + collect + wait(): the trees in order of their index. on_sealed (may be empty) is
/// called on the caller's thread for each as it comes.
std::vector<tree::Tree> roll_out(Farm& farm, std::vector<TreeRequest> requests,
                                 const std::function<void(const tree::Tree&)>& on_sealed = {});

}  // namespace espalier::rollout
