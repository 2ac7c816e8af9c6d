// Requests and replies over one socket to a process of the supervisor: the spawner, a cradle, a
// keeper (init/spawner.h).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "envs/reactor.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

struct SpawnerReplyFds {
  uint32_t value = 0;
  uint64_t extra = 0;
  std::string text;
  std::vector<Fd> fds;
};

/// Thread contract: the reactor's thread. Replies come on it; when the process is gone every call
/// fails with SandboxError.
class Channel {
 public:
  using Reply = common::Completion<SpawnerReplyFds>;

  Channel() = default;
  ~Channel() { close("the sandbox backend was closed"); }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Takes the socket and begins to serve it.
  void open(Fd socket, Reactor* reactor);
  /// Ends the process at the other end; what waits fails with this reason.
  void close(const std::string& why);
  bool is_open() const { return static_cast<bool>(socket_); }

  /// Sends a request (a wire struct whose header's op is set) and its descriptors. `done` may be
  /// null.
  void call(std::string request, std::vector<Fd> fds, Reply done);
  /// A request of a header alone.
  void call(wire::SpawnerOp op, uint64_t id, std::vector<Fd> fds, Reply done);

 private:
  struct Outgoing {
    std::string bytes;
    std::vector<Fd> fds;
  };
  void flush();
  void on_ready(uint32_t events);

  Reactor* reactor_ = nullptr;
  Fd socket_;
  uint64_t next_ticket_ = 1;
  std::deque<Outgoing> outgoing_;
  std::unordered_map<uint64_t, Reply> waiting_;
};

/// Text for a reply that failed.
std::string describe(const wire::SpawnerReply& reply);

}  // namespace espalier::envs::sandbox
