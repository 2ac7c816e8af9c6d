// Owned file descriptors and packets that carry them.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace espalier::envs::sandbox {

/// Closes on destruction. Thread contract: a value type; one owner at a time.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// SandboxError "WHAT: reason of errno".
[[noreturn]] void throw_errno(const std::string& what);

/// A second descriptor of the same file. Errors: SandboxError.
Fd duplicate(const Fd& fd);

struct Pipe {
  Fd read, write;
};
/// Close-on-exec pipe; the trainer's ends are non-blocking where asked.
Pipe make_pipe(bool nonblocking_read, bool nonblocking_write);
/// A SOCK_SEQPACKET pair for packets of kMaxMessageBytes from first, which is non-blocking.
std::pair<Fd, Fd> make_socket_pair();
/// An anonymous file with this content, positioned at its start.
Fd make_memory_file(const char* name, std::string_view content);

/// Sends one packet. False when the socket is full (EAGAIN). Errors: SandboxError.
bool send_packet(int socket, std::string_view bytes, const std::vector<int>& fds);

struct Packet {
  std::string bytes;
  std::vector<Fd> fds;
  bool closed = false;  // the other end is gone
};
/// False when nothing is waiting.
bool receive_packet(int socket, Packet* packet);

}  // namespace espalier::envs::sandbox
