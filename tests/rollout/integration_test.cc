// The farm with the real parts: sandboxes, the nursery's tasks, the generation engine with random
// weights.
#include <gtest/gtest.h>

#include <set>

#include "common/error.h"
#include "envs/nursery/nursery.h"
#include "envs/sandbox/backend.h"
#include "policy/device.h"
#include "policy/engine.h"
#include "policy/model_io.h"
#include "rollout/doubles.h"

namespace espalier::rollout {
namespace {

using tree::Outcome;

/// The engine, but with an x for each byte that makes processes run side by side or names one ("&",
/// "|", "$"): which of them writes first, and their numbers, no seed decides.
class OneProcessAtATime : public policy::Policy {
 public:
  OneProcessAtATime(policy::Policy& engine, const policy::Tokenizer& tokenizer)
      : engine_(engine), harmless_(tokenizer.encode("x").at(0)) {
    for (const char* byte : {"&", "|", "$"}) replaced_.insert(tokenizer.encode(byte).at(0));
  }
  void generate(policy::GenerateRequest request,
                common::Completion<policy::Generation> done) override {
    auto replace = [this, context = request.context,
                    done = std::move(done)](common::Result<policy::Generation> result) {
      if (!result.ok()) return done(std::move(result));
      policy::Generation& generation = result.value();
      for (policy::Token& token : generation.tokens)
        if (replaced_.contains(token)) token = harmless_;
      generation.context = policy::Context::extend(context, generation.tokens);
      done(std::move(result));
    };
    engine_.generate(std::move(request), std::move(replace));
  }
  void prefill(policy::GenerateRequest request,
               common::Completion<policy::Prefilled> done) override {
    engine_.prefill(std::move(request), std::move(done));
  }
  void publish(policy::WeightsPtr weights, uint64_t version) override {
    engine_.publish(std::move(weights), version);
  }
  uint64_t version() const override { return engine_.version(); }
  size_t context_limit() const override { return engine_.context_limit(); }
  void join(size_t participants) override { engine_.join(participants); }
  void leave(size_t participants) override { engine_.leave(participants); }
  void close() override { engine_.close(); }

 private:
  policy::Policy& engine_;
  policy::Token harmless_;
  std::set<policy::Token> replaced_;
};

/// One run of its own: nothing but the seed is shared with another.
struct RealParts {
  explicit RealParts(int delay_ms) {
    envs::SandboxOptions sandbox;
    sandbox.extra_command_delay_ms_max = delay_ms;
    sandbox.delay_seed = static_cast<uint64_t>(delay_ms);
    sandbox.snapshot_dir = scratch.path() / "snapshots";
    backend = envs::make_sandbox_backend(sandbox);
    tasks = envs::make_task_sources(scratch.path() / "tasks");
    tokenizer = policy::Tokenizer::from_pieces(envs::nursery::token_pieces());
    parts.backend = backend.get();
    parts.tokenizer = tokenizer;
    options.deterministic = true;
    options.command_timeout_s = 5;
  }

  void add_engine() {
    policy::set_torch_threads(1);
    policy::ModelShape shape;
    shape.vocab_size = static_cast<int>(tokenizer->vocab_size());
    shape.num_hidden_layers = 1;
    engine =
        policy::make_engine(policy::make_model(shape, 7), {.deterministic = true, .device = "cpu"});
    policy = std::make_unique<OneProcessAtATime>(*engine, *tokenizer);
    parts.policy = policy.get();
  }

  TreeRequest request(const std::string& task, uint64_t index, int roots) const {
    TreeRequest request;
    request.task = tasks->load(task);
    request.index = index;
    request.roots = roots;
    request.sampling.max_new_tokens = 8;
    return request;
  }

  common::TempDir scratch{"espalier-rollout-test"};
  std::unique_ptr<envs::Backend> backend;
  std::unique_ptr<envs::TaskSource> tasks;
  policy::TokenizerPtr tokenizer;
  std::unique_ptr<policy::Engine> engine;
  std::unique_ptr<policy::Policy> policy;
  FarmOptions options;
  FarmParts parts;
};

std::unique_ptr<RealParts> real_parts(int delay_ms = 0) {
  try {
    return std::make_unique<RealParts>(delay_ms);
  } catch (const common::SandboxError& error) {
    std::fprintf(stderr, "no sandboxes here: %s\n", error.what());
    return nullptr;
  }
}

std::string random_run(RealParts& real) {
  real.add_engine();
  tree::ForkRuleOptions fork;
  fork.probability = 0.5;
  auto rule = tree::make_fork_rule("uniform", fork);
  tree::Ledger ledger("generated_tokens", 0);
  real.parts.rule = rule.get();
  real.parts.ledger = &ledger;
  std::vector<TreeRequest> requests;
  requests.push_back(real.request("nursery:find/17/d2", 0, 4));
  requests.push_back(real.request("nursery:fix/5/d2", 1, 4));
  Farm farm(real.parts, real.options);
  const auto trees = roll_out(farm, std::move(requests));
  EXPECT_GT(ledger.total().forks, 0u);
  for (const tree::Tree& tree : trees)
    EXPECT_EQ(testing::count_leaves(tree, Outcome::rewarded) +
                  testing::count_leaves(tree, Outcome::context_overflow),
              static_cast<int>(tree.leaves().size()))
        << testing::dump(tree);
  EXPECT_EQ(real.backend->live_environments(), 0u);
  return testing::dump(trees);
}

TEST(IntegrationTest, RealSandboxesAndEngineGiveTheSameTreesWhateverTheTiming) {
  auto first = real_parts(), second = real_parts(), delayed = real_parts(40);
  if (!first || !second || !delayed) GTEST_SKIP() << "this machine makes no sandboxes";
  const std::string trees = random_run(*first);
  EXPECT_TRUE(random_run(*second) == trees);  // too long to print
  EXPECT_TRUE(random_run(*delayed) == trees);
}

Script oracle(const std::string& task) {
  const auto blueprint = envs::nursery::make_blueprint(envs::nursery::parse_task_id(task));
  auto demonstrator =
      std::make_shared<envs::nursery::NoisyOracle>(blueprint, 0.0, common::RngKey{1});
  return [demonstrator] { return demonstrator->next(); };
}

TEST(IntegrationTest, TheOraclesDemonstrationsAreRewarded) {
  auto real = real_parts();
  if (!real) GTEST_SKIP() << "this machine makes no sandboxes";
  std::vector<TreeRequest> requests;
  for (const std::string& family : envs::nursery::families(envs::nursery::Tier::base)) {
    const std::string task = "nursery:" + family + "/3/d2";
    requests.push_back(real->request(task, requests.size(), 1));
    requests.back().script = [task](int) { return oracle(task); };
  }
  Farm farm(real->parts, real->options);
  for (const tree::Tree& tree : roll_out(farm, std::move(requests))) {
    const tree::Node& leaf = tree.nodes.back();
    EXPECT_EQ(leaf.outcome, Outcome::rewarded) << tree.task << ": " << leaf.failure;
    EXPECT_EQ(leaf.reward, 1.0) << testing::dump(tree);
  }
}

TEST(IntegrationTest, SnapshotsAreTakenAtForks) {
  auto real = real_parts();
  if (!real) GTEST_SKIP() << "this machine makes no sandboxes";
  real->add_engine();
  testing::RuleDouble rule(
      [](const tree::ForkContext& context) { return context.turn == 2 ? 2 : 1; });
  real->parts.rule = &rule;
  real->options.snapshots = KeepSnapshots::branching;
  Farm farm(real->parts, real->options);
  std::vector<TreeRequest> requests;
  requests.push_back(real->request("nursery:maze/4/d2", 0, 2));
  int forks = 0;
  for (const tree::Tree& tree : roll_out(farm, std::move(requests)))
    for (const tree::Node& node : tree.nodes) {
      EXPECT_EQ(node.fork_rule.empty(), node.snapshot.empty());
      forks += node.fork_rule.empty() ? 0 : 1;
    }
  EXPECT_GT(forks, 0);
}

}  // namespace
}  // namespace espalier::rollout
