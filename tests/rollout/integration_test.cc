// The farm with the real parts: sandboxes, the nursery's tasks, the generation engine with random
// weights.
#include <gtest/gtest.h>

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
    parts.policy = engine.get();
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
  EXPECT_EQ(ledger.total().infra_failures, 0u);
  for (const tree::Tree& tree : trees)
    EXPECT_EQ(testing::count_leaves(tree, Outcome::rewarded),
              static_cast<int>(tree.leaves().size()));
  EXPECT_EQ(real.backend->live_environments(), 0u);
  return testing::dump(trees);
}

TEST(IntegrationTest, RealSandboxesAndEngineGiveTheSameTreesWhateverTheTiming) {
  auto first = real_parts(), second = real_parts(), delayed = real_parts(40);
  if (!first || !second || !delayed) GTEST_SKIP() << "this machine makes no sandboxes";
  const std::string trees = random_run(*first);
  EXPECT_EQ(random_run(*second), trees);
  EXPECT_EQ(random_run(*delayed), trees);
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
  real->options.snapshots = true;
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
