// The standard streams of a process in a container, over a connection taken over from HTTP.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "common/http.h"
#include "envs/environment.h"

namespace espalier::envs::container {

/// The engine sends frames: stream (1 stdout, 2 stderr), three zeros, length (big-endian), bytes.
/// Thread contract: one owner; wake() and shut() from any thread.
class Stream {
 public:
  enum class Event { data, end, woken, deadline };
  struct Sink {
    std::function<void(std::string_view)> out;
    std::function<void(std::string_view)> error;
  };

  /// Owns the socket. Errors: SandboxError.
  explicit Stream(common::HttpUpgrade upgrade);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Queues bytes for the process's standard input; wait() sends them.
  void write(std::string_view bytes) { pending_ += bytes; }
  /// Waits until something has come and hands it on, or until one of the other events.
  Event wait(Deadline deadline, const Sink& sink);

  /// The present or next wait() returns `woken`.
  void wake();
  /// Ends the connection: wait() returns `end` from now on.
  void shut();

 private:
  void send_pending();
  bool receive(const Sink& sink);
  void parse(std::string_view bytes, const Sink& sink);

  int socket_;
  int wake_;
  std::string pending_;
  std::string received_;  // came with the answer, not parsed yet
  std::string header_;    // of the frame that is coming in, up to 8 bytes
  size_t frame_left_ = 0;
  bool frame_is_error_ = false;
};

}  // namespace espalier::envs::container
