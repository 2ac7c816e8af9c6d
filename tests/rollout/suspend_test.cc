#include "rollout/suspend.h"

#include <gtest/gtest.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "common/error.h"

namespace espalier::rollout {
namespace {

/// Runs the function on a task of an arena of workers and waits for it.
template <class Function>
void on_task(Function function) {
  oneapi::tbb::global_control threads(oneapi::tbb::global_control::max_allowed_parallelism, 3);
  oneapi::tbb::task_arena arena(2, 0);
  std::promise<void> done;
  arena.enqueue([&] {
    try {
      function();
      done.set_value();
    } catch (...) {
      done.set_exception(std::current_exception());
    }
  });
  done.get_future().get();
}

TEST(SuspendTest, ReturnsWhatAnotherThreadCompletesWith) {
  std::thread other;
  on_task([&] {
    auto value = suspend_for<std::unique_ptr<int>>(
        [&](auto done) { other = std::thread([done] { done(std::make_unique<int>(7)); }); });
    EXPECT_EQ(*value, 7);
  });
  other.join();
}

TEST(SuspendTest, CompletionMayComeAtOnce) {
  on_task([] {
    for (int i = 0; i < 1000; ++i)
      ASSERT_EQ(suspend_for<int>([i](common::Completion<int> done) { done(i); }), i);
  });
}

TEST(SuspendTest, RethrowsTheCompletionsError) {
  on_task([] {
    EXPECT_THROW(suspend_for<int>([](common::Completion<int> done) {
                   done(std::make_exception_ptr(common::SandboxError("broken")));
                 }),
                 common::SandboxError);
  });
}

TEST(SuspendTest, RethrowsWhatStartThrows) {
  on_task([] {
    EXPECT_THROW(suspend_for<int>([](common::Completion<int>) -> void {
                   throw common::PolicyError("not started");
                 }),
                 common::PolicyError);
  });
}

TEST(SuspendTest, ASuspendedTaskLeavesItsThreadToOthers) {
  oneapi::tbb::task_arena arena(1, 0);
  common::Completion<int> first;
  std::promise<int> result;
  std::promise<void> second;
  arena.enqueue([&] {
    result.set_value(suspend_for<int>([&](common::Completion<int> done) {
      first = done;
      arena.enqueue([&] { second.set_value(); });
    }));
  });
  second.get_future().get();
  first(3);
  EXPECT_EQ(result.get_future().get(), 3);
}

}  // namespace
}  // namespace espalier::rollout
