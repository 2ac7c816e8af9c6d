#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "common/bounded_queue.h"

namespace espalier::common {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

TEST(BoundedQueue, IsFirstInFirstOut) {
  BoundedQueue<int> queue(3);
  for (int i : {1, 2, 3}) EXPECT_TRUE(queue.push(i));
  EXPECT_EQ(queue.size(), 3u);
  for (int i : {1, 2, 3}) EXPECT_EQ(queue.pop(), i);
}

TEST(BoundedQueue, CarriesMoveOnlyValues) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  queue.push(std::make_unique<int>(7));
  EXPECT_EQ(**queue.pop(), 7);
}

TEST(BoundedQueue, PopGivesUpAtTheDeadlineAndNotBefore) {
  BoundedQueue<int> queue(1);
  const auto deadline = Clock::now() + 5ms;
  EXPECT_EQ(queue.pop(deadline), std::nullopt);
  EXPECT_GE(Clock::now(), deadline);
  EXPECT_EQ(queue.pop(Clock::now() - 1s), std::nullopt);
  queue.push(1);
  EXPECT_EQ(queue.pop(Clock::now() - 1s), 1) << "what is there needs no waiting";
}

TEST(BoundedQueue, ClosedRefusesAndDrains) {
  BoundedQueue<int> queue(2);
  queue.push(1);
  queue.close();
  EXPECT_FALSE(queue.push(2));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, PushWaitsForSpace) {
  BoundedQueue<int> queue(1);
  queue.push(1);
  std::atomic<bool> pushed = false;
  std::thread producer([&] {
    queue.push(2);
    pushed = true;
  });
  EXPECT_EQ(queue.size(), 1u);
  EXPECT_FALSE(pushed) << "the second value went into a full queue";
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), 2);
  producer.join();
  EXPECT_TRUE(pushed);
}

TEST(BoundedQueue, CloseWakesEverybody) {
  BoundedQueue<int> full(1), empty(1);
  full.push(1);
  std::atomic<int> refused = 0, nothing = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { refused += !full.push(2); });
    threads.emplace_back([&] { nothing += !empty.pop().has_value(); });
  }
  full.close();
  empty.close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 4);
  EXPECT_EQ(nothing, 4);
}

TEST(BoundedQueue, ManyThreadsLoseAndRepeatNothing) {
  constexpr int kEach = 500, kProducers = 3;
  BoundedQueue<int> queue(4);
  std::atomic<long> sum = 0;
  std::atomic<int> count = 0;
  std::vector<std::thread> producers, consumers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (int i = 0; i < kEach; ++i) queue.push(p * kEach + i);
    });
  }
  for (int c = 0; c < 3; ++c) {
    consumers.emplace_back([&] {
      while (const auto value = queue.pop()) {
        sum += *value;
        ++count;
      }
    });
  }
  for (std::thread& thread : producers) thread.join();
  queue.close();
  for (std::thread& thread : consumers) thread.join();
  constexpr long kTotal = kEach * kProducers;
  EXPECT_EQ(count, kTotal);
  EXPECT_EQ(sum, kTotal * (kTotal - 1) / 2);
}

}  // namespace
}  // namespace espalier::common
