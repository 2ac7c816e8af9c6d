// Deterministic rounds: what is generated depends on the requests alone, not on when they come.
#include <gtest/gtest.h>

#include <condition_variable>
#include <latch>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "common/error.h"
#include "policy/engine.h"
#include "policy/models.h"

namespace espalier::policy {
namespace {

using testing::random_tokens;
using testing::random_weights;
using testing::tiny_shape;

/// Episodes of a few turns on their own threads, which wait a random time before each request; at a
/// turn that the sampled tokens decide, a child episode is forked.
class Episodes {
 public:
  Episodes(Policy& policy, unsigned timing_seed) : policy_(policy), timing_(timing_seed) {}

  /// Everything that was generated, by path: tokens, bits of log-probs and entropies, counts.
  std::map<std::string, std::vector<uint64_t>> run(int roots) {
    const ContextPtr prompt = Context::root(random_tokens(7, 37, 5));
    policy_.join(static_cast<size_t>(roots));
    for (int i = 0; i < roots; ++i) start(std::string(1, static_cast<char>('a' + i)), prompt, 4);
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return live_ == 0; });
    for (std::thread& thread : threads_) thread.join();
    return record_;
  }

 private:
  void start(const std::string& path, ContextPtr context, int turns) {
    std::lock_guard lock(mutex_);
    ++live_;
    const unsigned seed = timing_();
    threads_.emplace_back([=, this] { episode(path, context, turns, seed); });
  }

  void episode(std::string path, ContextPtr context, int turns, unsigned seed) {
    std::mt19937 delays(seed);
    for (; turns > 0; --turns) {
      std::this_thread::sleep_for(std::chrono::microseconds(delays() % 3000));
      GenerateRequest request;
      request.context = context;
      request.sampling.max_new_tokens = 1 + turns;
      request.key = common::derive_key(3, "task", path);
      request.order = request.key.value;
      const Generation g =
          common::await<Generation>([&](auto done) { policy_.generate(request, done); });
      note(path, g);
      path += '.';
      if (g.tokens[0] % 3 == 0) {
        policy_.join();  // the child, before its parent goes on
        start(path + "+",
              Context::extend(g.context, random_tokens(3, 37, static_cast<uint64_t>(g.tokens[0]))),
              turns - 1);
      }
      context =
          Context::extend(g.context, random_tokens(2, 37, static_cast<uint64_t>(g.tokens.back())));
    }
    policy_.leave();
    std::lock_guard lock(mutex_);
    if (--live_ == 0) ended_.notify_one();
  }

  void note(const std::string& path, const Generation& g) {
    std::lock_guard lock(mutex_);
    std::vector<uint64_t>& entry = record_[path];
    for (size_t i = 0; i < g.tokens.size(); ++i) {
      entry.push_back(static_cast<uint64_t>(g.tokens[i]));
      entry.push_back(std::bit_cast<uint32_t>(g.log_probs[i]));
      entry.push_back(std::bit_cast<uint32_t>(g.entropies[i]));
    }
    entry.push_back(g.prefill_tokens);
    entry.push_back(g.cached_tokens);
  }

  Policy& policy_;
  std::mt19937 timing_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int live_ = 0;
  std::vector<std::thread> threads_;
  std::map<std::string, std::vector<uint64_t>> record_;
};

EngineOptions lockstep(size_t max_batch) {
  EngineOptions options;
  options.deterministic = true;
  options.device = "cpu";
  options.max_batch = max_batch;
  return options;
}

TEST(LockStep, TimingChangesNothing) {
  ModelShape shape = tiny_shape();
  shape.max_position_embeddings = 64;
  const auto weights = random_weights(shape, 3);
  for (size_t max_batch : {512, 5}) {
    std::map<std::string, std::vector<uint64_t>> first;
    for (unsigned timing = 1; timing <= 4; ++timing) {
      const auto engine = make_engine(weights, lockstep(max_batch));
      const auto record = Episodes(*engine, timing).run(12);
      EXPECT_GT(record.size(), 48u);  // some forks
      if (timing == 1) first = record;
      EXPECT_EQ(record, first) << "timing " << timing << ", max_batch " << max_batch;
    }
  }
}

TEST(LockStep, CompletionsComeInOrder) {
  const auto engine = make_engine(random_weights(tiny_shape(), 4), lockstep(4));
  engine->join(10);
  std::vector<uint64_t> seen;
  std::latch left(10);
  for (uint64_t order : {7, 3, 9, 0, 5, 1, 8, 2, 6, 4}) {
    GenerateRequest request;
    request.context = Context::root({1, 2, static_cast<Token>(order)});
    request.order = order;
    request.sampling.max_new_tokens = 12 - static_cast<int>(order);
    if (order == 5) request.sampling.max_new_tokens = -1;  // failures keep their place
    engine->generate(request, [&, order](common::Result<Generation> result) {
      EXPECT_EQ(result.ok(), order != 5);
      seen.push_back(order);
      left.count_down();
    });
  }
  left.wait();
  EXPECT_EQ(seen, (std::vector<uint64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST(LockStep, LeavingStartsTheRoundThatWaited) {
  const auto engine = make_engine(random_weights(tiny_shape(), 5), lockstep(8));
  engine->join();
  const Participant here(engine.get());
  engine->join();
  std::latch left(1);
  {
    const Participant gone(engine.get());
    GenerateRequest request;
    request.context = Context::root({1});
    engine->generate(request, [&](common::Result<Generation>) { left.count_down(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_FALSE(left.try_wait());
  }
  left.wait();
}

}  // namespace
}  // namespace espalier::policy
