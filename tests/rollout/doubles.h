// Test doubles of the rollout tests: an environment in memory, a policy that draws from a list of
// commands in real lock-step rounds, and a journal-free farm around them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <queue>
#include <random>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "common/error.h"
#include "common/files.h"
#include "rollout/farm.h"
#include "rollout/harness.h"

namespace espalier::rollout::testing {

/// Runs functions on its one thread after random delays, as a reactor would.
class DelayedThread {
 public:
  DelayedThread(uint64_t seed, int max_delay_us);
  ~DelayedThread();
  void post(std::function<void()> function);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Item {
    Time time;
    uint64_t number;
    std::function<void()> function;
    bool operator>(const Item& other) const {
      return std::tie(time, number) > std::tie(other.time, other.number);
    }
  };
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::priority_queue<Item, std::vector<Item>, std::greater<>> items_;
  std::mt19937_64 random_;
  int max_delay_us_;
  uint64_t next_ = 0;
  bool closed_ = false;
  std::thread thread_;
};

/// What fake environments share and tests look at.
struct World {
  explicit World(uint64_t delay_seed = 1, int max_delay_us = 0)
      : thread(delay_seed, max_delay_us) {}

  /// Called before an operation ("create", "open", "run", "fork", "snapshot", "exec") takes effect;
  /// throws to make it fail. On the world's thread.
  std::function<void(const std::string& operation, const std::string& detail)> fault;
  bool writes_reward = true;

  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> snapshots;
  std::multimap<std::string, std::vector<std::string>> episode_keys;  // key → commands verified
  std::atomic<int> live{0}, most_live{0}, created{0}, opened{0}, runs{0};
  DelayedThread thread;  // last: ends first
};

/// The "shell" remembers its commands. Any command answers "<command> <number of commands so far>";
/// and
///   quiet: nothing · lines: several lines · long: 200 words · die: the shell exits · slow: timed
///   out bg: cannot be forked from then on · flaky: answers differently every time
/// The verifier gives 1 when `win` was run.
class FakeBackend : public envs::Backend {
 public:
  explicit FakeBackend(std::shared_ptr<World> world) : world_(std::move(world)) {}
  std::string name() const override { return "fake"; }
  void create(envs::EnvironmentSpec spec, envs::Completion<envs::EnvironmentPtr> done) override;
  void open(envs::SnapshotId snapshot, envs::Completion<envs::EnvironmentPtr> done) override;
  size_t live_environments() const override { return static_cast<size_t>(world_->live); }

 private:
  std::shared_ptr<World> world_;
};

struct FakePolicyOptions {
  std::vector<std::string> commands = {"look", "win", "quiet", "exit"};
  bool lockstep = true;
  size_t context_limit = 100000;
  uint64_t delay_seed = 1;
  int max_delay_us = 0;
  /// Throws to make a request fail. On the policy's thread.
  std::function<void(const policy::GenerateRequest&, bool generate)> fault;
};

/// Draws command floor(n · uniform(key, 0)). Numbers it reports also depend on what shared the
/// round, so that a different batch shows in the trees.
class FakePolicy : public policy::Policy {
 public:
  FakePolicy(policy::TokenizerPtr tokenizer, FakePolicyOptions options);
  ~FakePolicy() override;
  void generate(policy::GenerateRequest request,
                common::Completion<policy::Generation> done) override;
  void prefill(policy::GenerateRequest request,
               common::Completion<policy::Prefilled> done) override;
  void publish(policy::WeightsPtr, uint64_t version) override { version_ = version; }
  uint64_t version() const override { return version_; }
  size_t context_limit() const override { return options_.context_limit; }
  void join(size_t participants) override;
  void leave(size_t participants) override;
  void close() override;

  size_t participants() const;
  size_t rounds() const { return rounds_; }
  size_t largest_round() const { return largest_round_; }

 private:
  struct Waiting {
    policy::GenerateRequest request;
    std::variant<common::Completion<policy::Generation>, common::Completion<policy::Prefilled>>
        done;
  };
  void submit(Waiting waiting);
  void loop();
  void serve(Waiting& waiting, uint64_t signature);
  bool ready() const;

  policy::TokenizerPtr tokenizer_;
  FakePolicyOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Waiting> waiting_;
  size_t participants_ = 0;
  bool closed_ = false;
  std::atomic<uint64_t> version_{0};
  std::atomic<size_t> rounds_{0}, largest_round_{0};
  std::mt19937_64 random_;
  std::thread thread_;
};

/// A fork rule from a function.
class RuleDouble : public tree::ForkRule {
 public:
  explicit RuleDouble(std::function<int(const tree::ForkContext&)> decide)
      : decide_(std::move(decide)) {}
  std::string name() const override { return "double"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }
  int decide(const tree::ForkContext& context) override { return decide_(context); }
  std::string save() const override { return ""; }
  void restore(const std::string&) override {}

 private:
  std::function<int(const tree::ForkContext&)> decide_;
};

/// Everything a farm needs, put together from doubles; fields may be changed before make_farm().
struct Stage {
  explicit Stage(FakePolicyOptions options = {}, uint64_t delay_seed = 1, int max_delay_us = 0);

  std::unique_ptr<Farm> make_farm();
  /// `trees` requests of `roots` episodes each.
  std::vector<TreeRequest> requests(int trees, int roots) const;
  std::vector<tree::Tree> run(int trees, int roots);

  common::TempDir directory{"espalier-rollout-test"};
  policy::TokenizerPtr tokenizer;
  std::shared_ptr<World> world;
  FakeBackend backend;
  FakePolicy policy;
  std::shared_ptr<envs::Task> task;
  FarmOptions options;
  FarmParts parts;
};

/// Every bit of a tree as text.
std::string dump(const tree::Tree& tree);
std::string dump(const std::vector<tree::Tree>& trees);
int count_leaves(const tree::Tree& tree, tree::Outcome outcome);
/// Tokens before and of a node's action, from the root down.
std::vector<policy::Token> path_tokens(const tree::Tree& tree, int node);

}  // namespace espalier::rollout::testing
