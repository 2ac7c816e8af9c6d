#include "policy/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <latch>
#include <limits>
#include <thread>

#include "common/error.h"
#include "policy/model_io.h"
#include "policy/models.h"

namespace espalier::policy {
namespace {

using ::testing::HasSubstr;
using testing::random_tokens;
using testing::random_weights;
using testing::tiny_shape;

GenerateRequest request(ContextPtr context, int max_new_tokens = 6, uint64_t key = 1) {
  GenerateRequest result;
  result.context = std::move(context);
  result.sampling.max_new_tokens = max_new_tokens;
  result.key = common::RngKey{key};
  result.order = key;
  return result;
}

Generation generate(Policy& policy, const GenerateRequest& request) {
  return common::await<Generation>([&](auto done) { policy.generate(request, done); });
}

Prefilled prefill(Policy& policy, const GenerateRequest& request) {
  return common::await<Prefilled>([&](auto done) { policy.prefill(request, done); });
}

/// All requests at once, in one lock-step round when the engine is deterministic.
std::vector<Generation> generate_all(Policy& policy, const std::vector<GenerateRequest>& requests) {
  std::vector<std::optional<common::Result<Generation>>> results(requests.size());
  std::latch left(static_cast<ptrdiff_t>(requests.size()));
  policy.join(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    policy.generate(requests[i], [&, i](common::Result<Generation> result) {
      results[i].emplace(std::move(result));
      left.count_down();
    });
  }
  left.wait();
  policy.leave(requests.size());
  std::vector<Generation> generations;
  for (auto& result : results) generations.push_back(std::move(*result).get());
  return generations;
}

EngineOptions options_for(bool deterministic) {
  EngineOptions options;
  options.deterministic = deterministic;
  options.device = "cpu";
  return options;
}

/// Each token's log-probability and entropy against a full computation without any cache.
void expect_exact(const Weights& weights, const ContextPtr& context, const Generation& generation,
                  double tolerance) {
  std::vector<Token> tokens = testing::tokens_of(*context);
  const size_t start = tokens.size();
  tokens.insert(tokens.end(), generation.tokens.begin(), generation.tokens.end());
  EXPECT_EQ(tokens, testing::tokens_of(*generation.context));
  const auto logits = testing::reference_logits(weights, tokens);
  ASSERT_EQ(generation.log_probs.size(), generation.tokens.size());
  ASSERT_EQ(generation.entropies.size(), generation.tokens.size());
  for (size_t i = 0; i < generation.tokens.size(); ++i) {
    const auto log_probs = testing::log_softmax(logits[start + i - 1]);
    EXPECT_NEAR(generation.log_probs[i], log_probs[static_cast<size_t>(generation.tokens[i])],
                tolerance);
    EXPECT_NEAR(generation.entropies[i], testing::entropy(log_probs), tolerance);
  }
}

struct EngineCase {
  const char* name;
  bool deterministic;
  at::ScalarType dtype;
  int head_dim;
  double tolerance;
};

/// The CPU kernel (float32), the library's attention (float64, head sizes without a kernel) and
/// both modes.
class EngineCases : public ::testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    ModelShape shape = tiny_shape();
    shape.head_dim = GetParam().head_dim;
    weights_ = random_weights(shape, 21)->clone(GetParam().dtype);
    engine_ = make_engine(weights_, options_for(GetParam().deterministic));
  }
  void expect_exact(const ContextPtr& context, const Generation& generation) {
    policy::expect_exact(*weights_, context, generation, GetParam().tolerance);
  }
  static ContextPtr extended(const ContextPtr& parent, size_t count, uint64_t seed) {
    return Context::extend(parent, random_tokens(count, 37, seed));
  }

  std::shared_ptr<Weights> weights_;
  std::unique_ptr<Engine> engine_;
  ContextPtr root_ = Context::root(random_tokens(10, 37, 1));
};

TEST_P(EngineCases, SampledActionsCarryExactNumbers) {
  for (uint64_t key = 1; key <= 3; ++key) {
    GenerateRequest r = request(root_, 8, key);
    r.sampling.temperature = key == 1 ? 1.0 : 0.6;
    if (key == 3) r.sampling.top_k = 4;
    const Generation g = generate(*engine_, r);
    EXPECT_EQ(g.tokens.size(), 8u);
    EXPECT_EQ(g.stop, StopReason::max_tokens);
    expect_exact(root_, g);
  }
}

TEST_P(EngineCases, GreedyTakesTheLikeliestToken) {
  GenerateRequest r = request(root_, 5);
  r.sampling.temperature = 0;
  const Generation g = generate(*engine_, r);
  const auto logits = testing::reference_logits(*weights_, testing::tokens_of(*g.context));
  for (size_t i = 0; i < g.tokens.size(); ++i) {
    const auto& row = logits[root_->length() + i - 1];
    EXPECT_EQ(g.tokens[i], std::max_element(row.begin(), row.end()) - row.begin());
  }
}

TEST_P(EngineCases, TurnsComputeOnlyWhatIsNew) {
  const Generation first = generate(*engine_, request(root_, 4, 1));
  EXPECT_EQ(first.prefill_tokens, 10u);
  EXPECT_EQ(first.cached_tokens, 0u);
  const ContextPtr next = extended(first.context, 5, 2);
  const Generation second = generate(*engine_, request(next, 3, 2));
  EXPECT_EQ(second.prefill_tokens, 6u);  // the action's last token and the observation
  EXPECT_EQ(second.cached_tokens, 13u);
  expect_exact(next, second);
  const ContextPtr third_context = extended(second.context, 1, 3);
  const Generation third = generate(*engine_, request(third_context, 3, 3));
  EXPECT_EQ(third.prefill_tokens, 2u);
  expect_exact(third_context, third);
}

TEST_P(EngineCases, RootsOfOneTreeShareThePrompt) {
  std::vector<GenerateRequest> requests;
  for (uint64_t key = 1; key <= 5; ++key)
    requests.push_back(request(root_, 3 + static_cast<int>(key), key));
  const auto generations = generate_all(*engine_, requests);
  size_t computed = 0;
  for (const Generation& g : generations) {
    expect_exact(root_, g);
    computed += g.prefill_tokens;
    EXPECT_EQ(g.prefill_tokens + g.cached_tokens, root_->length());
  }
  EXPECT_EQ(computed, 9u + 5);  // the prompt once; its last token by each
}

TEST_P(EngineCases, ForkedBranchesShareThePrefixAndGoTheirOwnWays) {
  const Generation trunk = generate(*engine_, request(root_, 4, 1));
  std::vector<ContextPtr> contexts;
  std::vector<GenerateRequest> requests;
  for (uint64_t k = 0; k < 4; ++k) {
    contexts.push_back(extended(trunk.context, 1 + k * 2, 50 + k));
    requests.push_back(request(contexts.back(), 4, 60 + k));
  }
  const auto branches = generate_all(*engine_, requests);
  size_t cached = 0;
  for (size_t k = 0; k < branches.size(); ++k) {
    expect_exact(contexts[k], branches[k]);
    cached += branches[k].cached_tokens;
  }
  EXPECT_GE(cached, 4u * 13);
  // The trunk and one branch go on; nothing of the other branches shows.
  const ContextPtr trunk_next = extended(trunk.context, 3, 70),
                   branch_next = extended(branches[2].context, 2, 71);
  const auto later =
      generate_all(*engine_, {request(trunk_next, 4, 72), request(branch_next, 4, 73)});
  expect_exact(trunk_next, later[0]);
  expect_exact(branch_next, later[1]);
}

TEST_P(EngineCases, PrefillTellsTheFirstEntropyAndKeepsTheKv) {
  const Prefilled p = prefill(*engine_, request(root_));
  const auto log_probs =
      testing::log_softmax(testing::reference_logits(*weights_, testing::tokens_of(*root_)).back());
  EXPECT_NEAR(p.first_entropy, testing::entropy(log_probs), GetParam().tolerance);
  EXPECT_EQ(p.prefill_tokens, 10u);
  const Generation g = generate(*engine_, request(root_, 4));
  EXPECT_EQ(g.prefill_tokens, 1u);  // the last token again, for its logits
  EXPECT_EQ(g.cached_tokens, 9u);
  expect_exact(root_, g);
  const Generation child = generate(*engine_, request(extended(root_, 2, 9), 2));
  EXPECT_EQ(child.cached_tokens, 10u);
}

TEST_P(EngineCases, OddShapesOfContexts) {
  const ContextPtr single = Context::root({5});
  expect_exact(single, generate(*engine_, request(single, 4)));
  const ContextPtr hollow = Context::extend(Context::extend(single, {}), {});
  expect_exact(hollow, generate(*engine_, request(hollow, 4)));
  const ContextPtr again = extended(hollow, 2, 3);
  expect_exact(again, generate(*engine_, request(again, 1)));
  const Generation one = generate(*engine_, request(again, 1, 4));
  const ContextPtr after = extended(one.context, 1, 5);
  expect_exact(after, generate(*engine_, request(after, 2, 5)));
}

TEST_P(EngineCases, NewWeightsNeverSeeOldKv) {
  const Generation before = generate(*engine_, request(root_, 4, 1));
  EXPECT_EQ(before.policy_version, 0u);
  const auto fresh = random_weights(weights_->shape, 99)->clone(GetParam().dtype);
  engine_->publish(fresh, 7);
  EXPECT_EQ(engine_->version(), 7u);
  const ContextPtr next = extended(before.context, 3, 2);
  const Generation after = generate(*engine_, request(next, 4, 2));
  EXPECT_EQ(after.policy_version, 7u);
  EXPECT_EQ(after.cached_tokens, 0u);
  policy::expect_exact(*fresh, next, after, GetParam().tolerance);
  engine_->publish(weights_, 7);  // the same number, other weights
  const Generation back = generate(*engine_, request(next, 4, 3));
  EXPECT_EQ(back.cached_tokens, 0u);
  expect_exact(next, back);
}

INSTANTIATE_TEST_SUITE_P(
    Engine, EngineCases,
    ::testing::Values(EngineCase{"float32", false, at::kFloat, 16, 2e-5},
                      EngineCase{"float32_lockstep", true, at::kFloat, 16, 2e-5},
                      EngineCase{"float64_lockstep", true, at::kDouble, 16,
                                 1e-6},  // results are floats
                      EngineCase{"float32_no_kernel", false, at::kFloat, 8, 2e-5}),
    [](const auto& info) { return info.param.name; });

TEST(Engine, StopsForTheRightReason) {
  const auto weights = random_weights(tiny_shape(), 31);
  const auto engine = make_engine(weights, options_for(false));
  const ContextPtr root = Context::root(random_tokens(40, 37, 3));
  const Generation full = generate(*engine, request(root, 100));
  EXPECT_EQ(full.stop, StopReason::context_full);
  EXPECT_EQ(full.tokens.size(), 8u);
  GenerateRequest r = request(root, 100);
  r.sampling.stop_tokens = {full.tokens[2]};
  const Generation stopped = generate(*engine, r);
  EXPECT_EQ(stopped.stop, StopReason::stop_token);
  EXPECT_EQ(stopped.tokens.back(), full.tokens[2]);
  EXPECT_LE(stopped.tokens.size(), 3u);
  EXPECT_EQ(generate(*engine, request(root, 2)).stop, StopReason::max_tokens);
  const Generation none = generate(*engine, request(full.context, 5));
  EXPECT_EQ(none.stop, StopReason::context_full);
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(engine->context_limit(), 48u);
}

TEST(Engine, DrawsFollowTheModelsDistribution) {
  const auto weights = random_weights(tiny_shape(), 41);
  const auto engine = make_engine(weights, options_for(false));
  const ContextPtr root = Context::root(random_tokens(6, 37, 3));
  constexpr int kDraws = 4000;
  std::vector<GenerateRequest> requests;
  for (uint64_t i = 0; i < kDraws; ++i) requests.push_back(request(root, 1, 1000 + i));
  std::vector<int> counts(37);
  for (const Generation& g : generate_all(*engine, requests))
    ++counts[static_cast<size_t>(g.tokens[0])];
  const auto log_probs =
      testing::log_softmax(testing::reference_logits(*weights, testing::tokens_of(*root)).back());
  double statistic = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double mean = kDraws * std::exp(log_probs[i]);
    statistic += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  EXPECT_LT(statistic, 77.0);  // 36 degrees of freedom: exceeded with probability 1e-4
}

TEST(Engine, WrongRequestsFailAloneAndItGoesOn) {
  const auto weights = random_weights(tiny_shape(), 51);
  const auto engine = make_engine(weights, options_for(false));
  auto message = [&](const GenerateRequest& r) -> std::string {
    try {
      generate(*engine, r);
    } catch (const common::PolicyError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message(request(nullptr)), HasSubstr("empty"));
  EXPECT_THAT(message(request(Context::root({}))), HasSubstr("empty"));
  EXPECT_THAT(message(request(Context::root({1, 37}))), HasSubstr("token 37"));
  EXPECT_THAT(message(request(Context::root({-1}))), HasSubstr("token -1"));
  EXPECT_THAT(message(request(Context::root(random_tokens(49, 37, 1)))), HasSubstr("49 tokens"));
  EXPECT_THAT(message(request(Context::root({1}), 0)), HasSubstr("max_new_tokens"));
  GenerateRequest hot = request(Context::root({1}));
  hot.sampling.temperature = -2;
  EXPECT_THAT(message(hot), HasSubstr("temperature"));
  EXPECT_EQ(message(request(Context::root({1}))), "no error");
  EXPECT_THROW(prefill(*engine, request(nullptr)), common::PolicyError);
}

TEST(Engine, BrokenWeightsFailTheBatchAndItGoesOn) {
  const auto good = random_weights(tiny_shape(), 61);
  auto broken = good->clone();
  broken->tensors["model.norm.weight"].fill_(std::numeric_limits<float>::quiet_NaN());
  auto missing = good->clone();
  missing->tensors.erase("model.layers.1.mlp.up_proj.weight");
  for (bool deterministic : {false, true}) {
    const auto engine = make_engine(broken, options_for(deterministic));
    const ContextPtr root = Context::root(random_tokens(5, 37, 1));
    EXPECT_THROW(generate(*engine, request(root)), common::PolicyError);
    EXPECT_THROW(generate_all(*engine, {request(root, 3, 1), request(root, 3, 2)}),
                 common::PolicyError);
    engine->publish(missing, 1);
    EXPECT_THROW(generate(*engine, request(root)), common::PolicyError);
    engine->publish(good, 2);
    const Generation g = generate(*engine, request(root));
    expect_exact(*good, root, g, 2e-5);
  }
}

TEST(Engine, RefusesWeightsOfAnotherShape) {
  const auto engine = make_engine(random_weights(tiny_shape(), 71), options_for(false));
  ModelShape other = tiny_shape();
  other.vocab_size = 38;
  EXPECT_THROW(engine->publish(random_weights(other, 1), 1), common::PolicyError);
  EXPECT_EQ(engine->version(), 0u);
}

TEST(Engine, RowsInWorkFinishUnderTheirOwnWeights) {
  const auto old_weights = random_weights(tiny_shape(), 81),
             new_weights = random_weights(tiny_shape(), 82);
  const auto engine = make_engine(old_weights, options_for(false));
  const ContextPtr root = Context::root(random_tokens(5, 37, 1));
  std::optional<Generation> slow, late;
  std::latch left(3);
  engine->generate(request(root, 40, 1), [&](common::Result<Generation> r) {
    slow = std::move(r).get();
    left.count_down();
  });
  engine->generate(request(root, 1, 2), [&](common::Result<Generation>) {
    engine->publish(new_weights, 5);
    engine->generate(request(root, 4, 3), [&](common::Result<Generation> r) {
      late = std::move(r).get();
      left.count_down();
    });
    left.count_down();
  });
  left.wait();
  EXPECT_EQ(slow->policy_version, 0u);
  expect_exact(*old_weights, root, *slow, 2e-5);
  EXPECT_EQ(late->policy_version, 5u);
  expect_exact(*new_weights, root, *late, 2e-5);
}

TEST(Engine, CloseCancelsWhatWaitsAndWhatComesLater) {
  const auto weights = random_weights(tiny_shape(), 91);
  const auto engine = make_engine(weights, options_for(true));
  const ContextPtr root = Context::root({1, 2});
  engine->join(2);  // the second participant never comes
  std::atomic<int> cancelled = 0;
  auto count = [&](auto result) {
    try {
      std::move(result).get();
    } catch (const common::Cancelled&) {
      ++cancelled;
    }
  };
  engine->generate(request(root), count);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(engine->stats().rounds, 0u);
  engine->close();
  EXPECT_EQ(cancelled, 1);
  engine->prefill(request(root), count);
  engine->generate(request(root), count);
  EXPECT_EQ(cancelled, 3);
  engine->close();
}

TEST(Engine, ACompletionMayCloseIt) {
  const auto engine = make_engine(random_weights(tiny_shape(), 92), options_for(false));
  std::latch left(1);
  engine->generate(request(Context::root({1, 2})), [&](common::Result<Generation>) {
    engine->close();
    left.count_down();
  });
  left.wait();
}

TEST(Engine, CountsWhatItDid) {
  const auto engine = make_engine(random_weights(tiny_shape(), 93), options_for(false));
  const ContextPtr root = Context::root(random_tokens(10, 37, 1));
  const Generation g = generate(*engine, request(root, 4));
  generate(*engine, request(Context::extend(g.context, {1, 2}), 3));
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.generated_tokens, 7u);
  EXPECT_EQ(stats.rounds, 7u);
  EXPECT_EQ(stats.prefill_tokens, 10u + 3);
  EXPECT_EQ(stats.cached_tokens, 13u);
}

}  // namespace
}  // namespace espalier::policy
