// The way out of a sandbox whose task has the public network: one slirp4netns process, a TCP/IP
// stack in user space between the sandbox's network namespace and ordinary sockets of this user.
//
// What it must not reach is closed twice: slirp4netns refuses the host's loopback, and the
// sandbox's routes (init/network.h) end at private ranges and the host's own addresses. Nothing of
// the host's configuration is touched, and no privilege is needed.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "envs/sandbox/fd.h"

namespace espalier::envs::sandbox {

/// Why there can be no public network on this machine, with what to install; empty: there can.
std::string why_no_network();

/// /etc/resolv.conf of a sandbox with a network: slirp4netns answers there.
inline constexpr const char* kResolvConf = "nameserver 10.0.2.3\n";

/// Thread contract: one owner. The process ends with the object, and with this process.
class PublicNetwork {
 public:
  /// Joins the network namespace of process `init`; `supervisor` is in the user namespace that owns
  /// it (0: this process's own). Errors: Unsupported, SandboxError.
  PublicNetwork(pid_t init, pid_t supervisor);
  ~PublicNetwork();
  PublicNetwork(const PublicNetwork&) = delete;
  PublicNetwork& operator=(const PublicNetwork&) = delete;

  /// Becomes readable with a byte once the network is up, at end of stream when it cannot be.
  int ready_fd() const { return ready_.get(); }
  /// Reads it: true when the network is up.
  bool up();

 private:
  Fd ready_;
  Fd alive_;  // slirp4netns ends when this closes
  pid_t pid_ = -1;
};

/// The process that a pidfd stands for. Errors: SandboxError.
pid_t pid_of(int pidfd);

}  // namespace espalier::envs::sandbox
