#include "envs/threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <set>

namespace espalier::envs {
namespace {

TEST(Threads, RunTasksInOrderOnAtMostSoMany) {
  std::vector<int> order;
  std::set<std::thread::id> seen;
  std::mutex mutex;
  {
    Threads one(1);
    for (int i = 0; i < 100; ++i)
      one.post([&, i] {
        std::lock_guard lock(mutex);
        order.push_back(i);
        seen.insert(std::this_thread::get_id());
      });
  }
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(seen.size(), 1u);
}

TEST(Threads, StartAThreadForATaskThatWaitsForAnother) {
  Threads threads;
  std::promise<void> second;
  threads.post([&] { second.get_future().wait(); });
  threads.post([&] { second.set_value(); });
  threads.join();
}

TEST(Threads, JoinRunsWhatTasksPostAndLaterOnesRunInThePoster) {
  Threads threads(2);
  std::atomic<int> ran{0};
  threads.post([&] {
    ++ran;
    threads.post([&] { ++ran; });
  });
  threads.join();
  EXPECT_EQ(ran, 2);
  std::thread::id where;
  threads.post([&] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

// A thread that dropped the last reference to its own owner would have to join itself.
TEST(Threads, AfterJoinNoTaskHoldsAnythingAnyMore) {
  struct Owner {
    Threads threads{4};
  };
  for (int round = 0; round < 200; ++round) {
    auto owner = std::make_shared<Owner>();
    for (int i = 0; i < 4; ++i) owner->threads.post([owner] {});
    owner->threads.join();
    EXPECT_EQ(owner.use_count(), 1);
  }
}

}  // namespace
}  // namespace espalier::envs
