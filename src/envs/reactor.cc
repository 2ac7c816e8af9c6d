#include "envs/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::envs {

namespace {

uint64_t tag(int fd, uint32_t generation) { return uint64_t{generation} << 32 | uint32_t(fd); }

}  // namespace

Reactor::Reactor()
    : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (epoll_fd_ < 0 || wake_fd_ < 0)
    throw common::SandboxError(std::string("start the reactor: epoll or eventfd: ") +
                               std::strerror(errno) +
                               "; raise the limit of open files (ulimit -n)");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag(wake_fd_, 0);
  epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event);
  thread_ = std::thread([this] { loop(); });
}

void Reactor::stop() {
  if (!thread_.joinable()) return;
  post([this] { stopping_ = true; });
  thread_.join();
  watches_.clear();
  timers_.clear();
  std::vector<Task> late;  // destroyed outside the lock: a task may own what posts again
  std::lock_guard lock(mutex_);
  stopped_ = true;
  late.swap(posted_);
}

Reactor::~Reactor() {
  stop();
  close(epoll_fd_);
  close(wake_fd_);
}

void Reactor::post(Task task) {
  bool first;
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    first = posted_.empty();
    posted_.push_back(std::move(task));
  }
  uint64_t one = 1;
  if (first) (void)!write(wake_fd_, &one, sizeof one);
}

void Reactor::watch(int fd, uint32_t events, std::function<void(uint32_t)> ready) {
  Watch watch{next_generation_++,
              std::make_shared<std::function<void(uint32_t)>>(std::move(ready))};
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(fd, watch.generation);
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event))
    throw common::SandboxError("watch descriptor " + std::to_string(fd) + ": " +
                               std::strerror(errno));
  watches_[fd] = std::move(watch);
}

void Reactor::rearm(int fd, uint32_t events) {
  auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(fd, found->second.generation);
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event);
}

void Reactor::unwatch(int fd) {
  if (watches_.erase(fd)) epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
}

Reactor::TimerId Reactor::call_at(Clock::time_point when, Task task) {
  TimerId id{when, next_timer_++};
  timers_.emplace(id, std::move(task));
  return id;
}

void Reactor::cancel(TimerId timer) { timers_.erase(timer); }

bool Reactor::run_posted() {
  std::vector<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (Task& task : tasks) task();
  return !tasks.empty();
}

void Reactor::run_timers() {
  while (!timers_.empty() && timers_.begin()->first.first <= Clock::now()) {
    Task task = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    task();
  }
}

int Reactor::wait_ms() const {
  if (timers_.empty()) return -1;
  auto left = timers_.begin()->first.first - Clock::now();
  if (left <= Clock::duration::zero()) return 0;
  auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return ms > 3'600'000 ? 3'600'000 : int(ms);
}

void Reactor::loop() {
  epoll_event events[64];
  while (!stopping_) {
    int count = epoll_wait(epoll_fd_, events, 64, wait_ms());
    for (int i = 0; i < count; ++i) {
      int fd = int(uint32_t(events[i].data.u64));
      if (fd == wake_fd_) {
        uint64_t wakes;
        (void)!read(wake_fd_, &wakes, sizeof wakes);
        continue;
      }
      // An earlier callback of this round may have ended the watch, even begun another one of the
      // same number; the copy keeps a callback alive that ends its own.
      auto found = watches_.find(fd);
      if (found == watches_.end() || found->second.generation != events[i].data.u64 >> 32) continue;
      auto ready = found->second.ready;
      (*ready)(events[i].events);
    }
    run_posted();
    run_timers();
  }
  while (run_posted()) {
  }
}

}  // namespace espalier::envs
