// Threads for work that blocks: packing, compression, the disk, calls of a container engine.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::envs {

/// Thread contract: post() from any thread. Tasks begin in order, may run at the same time, each on
/// one of at most `most` threads, which are started when needed and kept; they must not throw.
/// join() runs what was posted and ends the threads, not from one of them; what is posted after it
/// runs in the posting thread. The destructor joins: whatever owns this object must not die in a
/// task, so what a task keeps alive must have another owner until join() has returned.
class Threads {
 public:
  explicit Threads(size_t most = std::numeric_limits<size_t>::max()) : most_(most) {}
  ~Threads() { join(); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  void post(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      if (!closed_) {
        if (idle_ <= tasks_.size() && live_ < most_) {
          threads_.emplace_back([this] { loop(); });
          ++live_;
        }
        tasks_.push_back(std::move(task));
        filled_.notify_one();
        return;
      }
    }
    task();
  }

  void join() {
    std::vector<std::thread> threads;
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        joining_ = true;
        threads.swap(threads_);  // a task may have posted meanwhile
        if (threads.empty()) {
          closed_ = true;
          break;
        }
      }
      filled_.notify_all();
      for (std::thread& thread : threads) thread.join();
      threads.clear();
    }
  }

 private:
  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      filled_.wait(lock, [this] { return joining_ || !tasks_.empty(); });
      --idle_;
      if (tasks_.empty()) break;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
    --live_;
  }

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> tasks_;
  size_t idle_ = 0;
  size_t live_ = 0;
  bool joining_ = false;  // threads end once nothing is left to do
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace espalier::envs
