// A bounded, closable queue with deadlines.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace espalier::common {

/// Thread contract: any number of producers and consumers. close() wakes everybody: push() then
/// refuses, pop() drains what is left and then returns nullopt.
template <class T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  /// Blocks while full. False when closed.
  bool push(T value) {
    std::unique_lock lock(mutex_);
    space_.wait(lock, [&] { return closed_ || items_.size() < capacity_; });
    if (closed_) return false;
    items_.push_back(std::move(value));
    filled_.notify_one();
    return true;
  }

  /// Blocks until there is an item, the queue is closed and empty, or the deadline passes
  /// (nullopt).
  std::optional<T> pop(std::chrono::steady_clock::time_point deadline =
                           std::chrono::steady_clock::time_point::max()) {
    std::unique_lock lock(mutex_);
    auto ready = [&] { return closed_ || !items_.empty(); };
    if (deadline == std::chrono::steady_clock::time_point::max()) {
      filled_.wait(lock, ready);
    } else if (!filled_.wait_until(lock, deadline, ready)) {
      return std::nullopt;
    }
    if (items_.empty()) return std::nullopt;
    T value = std::move(items_.front());
    items_.pop_front();
    space_.notify_one();
    return value;
  }

  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    filled_.notify_all();
    space_.notify_all();
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

 private:
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable filled_, space_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace espalier::common
