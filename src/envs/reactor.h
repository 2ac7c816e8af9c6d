// One epoll thread for everything an environment backend waits for: pipes, sockets, pidfds, timers.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace espalier::envs {

/// Thread contract: post() may be called from any thread; everything else only on the reactor's own
/// thread, that is from within a callback. Callbacks must not block. The destructor runs what was
/// posted before it and joins the thread; it must not run on the reactor's thread.
class Reactor {
 public:
  using Task = std::function<void()>;
  using Clock = std::chrono::steady_clock;
  using TimerId = std::pair<Clock::time_point, uint64_t>;

  /// Errors: SandboxError when the kernel refuses epoll or eventfd.
  Reactor();
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  /// Runs what was posted and ends the thread; what is posted later never runs. Not on the
  /// reactor's thread.
  void stop();

  /// Runs task on the reactor's thread; tasks keep their order.
  void post(Task task);
  bool on_reactor_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

  /// Calls ready(epoll events) whenever fd has some of `events` (EPOLLIN, …; level-triggered).
  void watch(int fd, uint32_t events, std::function<void(uint32_t)> ready);
  void rearm(int fd, uint32_t events);
  /// Forgets fd; its callback is not called any more. Call before closing it.
  void unwatch(int fd);

  TimerId call_at(Clock::time_point when, Task task);
  /// Absent and past timers are ignored.
  void cancel(TimerId timer);

 private:
  void loop();
  bool run_posted();
  void run_timers();
  int wait_ms() const;

  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  std::mutex mutex_;
  std::vector<Task> posted_;
  bool stopping_ = false;
  bool stopped_ = false;  // guarded by mutex_
  struct Watch {
    uint32_t
        generation;  // tells an event of this watch from one of an earlier watch of the same number
    std::shared_ptr<std::function<void(uint32_t)>> ready;
  };
  std::unordered_map<int, Watch> watches_;
  uint32_t next_generation_ = 1;
  std::map<TimerId, Task> timers_;
  uint64_t next_timer_ = 0;
  std::thread thread_;
};

}  // namespace espalier::envs
