// Threads for operations that block, as many as are in progress.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::envs::container {

/// Thread contract: post() from any thread; tasks run at once, each on a thread of its own that is
/// kept for later ones, and must not throw. join() runs what was posted and ends the threads; what
/// is posted after it runs in the posting thread.
class Threads {
 public:
  Threads() = default;
  ~Threads() { join(); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  void post(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      if (!closed_) {
        tasks_.push_back(std::move(task));
        if (idle_ < tasks_.size()) threads_.emplace_back([this] { loop(); });
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
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> tasks_;
  size_t idle_ = 0;
  bool joining_ = false;  // threads end once nothing is left to do
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace espalier::envs::container
