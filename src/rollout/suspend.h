// Turns a completion callback into a suspension of the calling TBB task: the thread goes on with
// other episodes, and the task continues, on any thread of its arena, when the callback has been
// called.
//
// Rules for code that suspends: no lock held, no thread-local (errno, caught exceptions) kept
// across it. So never suspend inside a catch block or a destructor: the C++ runtime's stack of
// caught exceptions is a thread-local.
#pragma once

#include <oneapi/tbb/task.h>

#include <exception>
#include <optional>
#include <utility>

#include "common/result.h"

namespace espalier::rollout {

/// Runs start(completion) and suspends the task until the completion is called; returns its value
/// or rethrows. An exception of start() itself is rethrown too. Only on a task of a TBB arena.
template <class T, class Start>
T suspend_for(Start&& start) {
  std::optional<common::Result<T>> result;
  oneapi::tbb::task::suspend([&](oneapi::tbb::task::suspend_point task) {
    try {
      start(common::Completion<T>([&result, task](common::Result<T> outcome) {
        result.emplace(std::move(outcome));
        oneapi::tbb::task::resume(task);
      }));
    } catch (...) {
      result.emplace(std::current_exception());
      oneapi::tbb::task::resume(task);
    }
  });
  return std::move(*result).get();
}

}  // namespace espalier::rollout
