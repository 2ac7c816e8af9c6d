// A value or the exception that took its place, and the completion callbacks that carry it.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>

namespace espalier::common {

/// Outcome of an asynchronous operation. get() returns the value or rethrows.
/// Thread contract: a value type; one owner at a time.
template <class T>
class Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}        // NOLINT(implicit)
  Result(std::exception_ptr error) : state_(std::in_place_index<1>, error) {}  // NOLINT(implicit)

  bool ok() const { return state_.index() == 0; }
  std::exception_ptr error() const { return ok() ? nullptr : std::get<1>(state_); }
  T& value() & {
    if (!ok()) std::rethrow_exception(std::get<1>(state_));
    return std::get<0>(state_);
  }
  T get() && {
    if (!ok()) std::rethrow_exception(std::get<1>(state_));
    return std::move(std::get<0>(state_));
  }

 private:
  std::variant<T, std::exception_ptr> state_;
};

/// Stands for "done" where there is nothing to return.
struct Done {};

/// Called exactly once, on whatever thread completes the operation; must not block and must not
/// throw.
template <class T>
using Completion = std::function<void(Result<T>)>;

/// Runs start(completion) and blocks the calling thread until the completion is called. For
/// commands and tests; episodes suspend instead (rollout/suspend.h).
template <class T, class Start>
T await(Start&& start) {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<T>> result;
  std::forward<Start>(start)(Completion<T>([&](Result<T> r) {
    std::lock_guard lock(mutex);
    result.emplace(std::move(r));
    done.notify_one();
  }));
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return result.has_value(); });
  return std::move(*result).get();
}

}  // namespace espalier::common
