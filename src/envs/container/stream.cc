#include "envs/container/stream.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/error.h"

namespace espalier::envs::container {
namespace {

constexpr size_t kHeaderBytes = 8;
constexpr size_t kReadBytes = 64 * 1024;
constexpr int64_t kLongestPollMs = 3'600'000;

int poll_ms(Deadline deadline) {
  if (deadline == Deadline::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, kLongestPollMs));
}

}  // namespace

Stream::Stream(common::HttpUpgrade upgrade)
    : socket_(upgrade.socket),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      received_(std::move(upgrade.received)) {
  if (wake_ >= 0) return;
  close(socket_);
  throw common::SandboxError(std::string("attach to a container: eventfd: ") +
                             std::strerror(errno) + "; raise the limit of open files (ulimit -n)");
}

Stream::~Stream() {
  close(socket_);
  close(wake_);
}

void Stream::wake() {
  const uint64_t one = 1;
  (void)!::write(wake_, &one, sizeof one);
}

void Stream::shut() { shutdown(socket_, SHUT_RDWR); }

Stream::Event Stream::wait(Deadline deadline, const Sink& sink) {
  if (!received_.empty()) {
    parse(std::exchange(received_, ""), sink);
    return Event::data;
  }
  for (;;) {
    const short events = pending_.empty() ? POLLIN : POLLIN | POLLOUT;
    pollfd waits[2] = {{socket_, events, 0}, {wake_, POLLIN, 0}};
    const int n = poll(waits, 2, poll_ms(deadline));
    if (n < 0 && errno != EINTR) return Event::end;
    if (n <= 0) {
      if (Clock::now() >= deadline) return Event::deadline;
      continue;
    }
    if (waits[1].revents) {
      uint64_t wakes;
      (void)!read(wake_, &wakes, sizeof wakes);
      return Event::woken;
    }
    if (waits[0].revents & POLLOUT) send_pending();
    if (waits[0].revents & (POLLIN | POLLHUP | POLLERR))
      return receive(sink) ? Event::data : Event::end;
  }
}

void Stream::send_pending() {
  const ssize_t n = send(socket_, pending_.data(), pending_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n > 0) pending_.erase(0, static_cast<size_t>(n));
  // The end of a stream is noticed where it is read.
  if (n < 0 && errno != EAGAIN && errno != EINTR) pending_.clear();
}

bool Stream::receive(const Sink& sink) {
  char buffer[kReadBytes];
  const ssize_t n = recv(socket_, buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (n <= 0) return false;
  parse({buffer, static_cast<size_t>(n)}, sink);
  return true;
}

void Stream::parse(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    if (frame_left_ == 0) {
      const size_t n = std::min(kHeaderBytes - header_.size(), bytes.size());
      header_ += bytes.substr(0, n);
      bytes.remove_prefix(n);
      if (header_.size() < kHeaderBytes) return;
      for (size_t i = 4; i < kHeaderBytes; ++i)
        frame_left_ = frame_left_ << 8 | static_cast<unsigned char>(header_[i]);
      frame_is_error_ = header_[0] == 2;
      header_.clear();
      continue;
    }
    const size_t n = std::min(frame_left_, bytes.size());
    (frame_is_error_ ? sink.error : sink.out)(bytes.substr(0, n));
    bytes.remove_prefix(n);
    frame_left_ -= n;
  }
}

}  // namespace espalier::envs::container
