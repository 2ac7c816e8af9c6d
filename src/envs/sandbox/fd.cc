#include "envs/sandbox/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

void throw_errno(const std::string& what) {
  int error = errno;
  std::string hint;
  if (error == EMFILE || error == ENFILE) hint = "; raise the limit of open files (ulimit -n)";
  throw common::SandboxError(what + ": " + std::strerror(error) + hint);
}

Fd duplicate(const Fd& fd) {
  Fd out(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!out) throw_errno("duplicate a descriptor");
  return out;
}

Pipe make_pipe(bool nonblocking_read, bool nonblocking_write) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC)) throw_errno("make a pipe");
  if (nonblocking_read) fcntl(fds[0], F_SETFL, O_NONBLOCK);
  if (nonblocking_write) fcntl(fds[1], F_SETFL, O_WRONLY | O_NONBLOCK);
  return {Fd(fds[0]), Fd(fds[1])};
}

std::pair<Fd, Fd> make_socket_pair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) throw_errno("make a socket pair");
  fcntl(fds[0], F_SETFL, O_RDWR | O_NONBLOCK);
  int bytes = 2 * int(wire::kMaxMessageBytes);
  setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  return {Fd(fds[0]), Fd(fds[1])};
}

Fd make_memory_file(const char* name, std::string_view content) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) throw_errno("make a memory file");
  while (!content.empty()) {
    ssize_t n = write(fd.get(), content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("write a memory file");
    content.remove_prefix(size_t(n));
  }
  lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

bool send_packet(int socket, std::string_view bytes, const std::vector<int>& fds) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * wire::kMaxFds)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return false;
    throw_errno("send to the sandbox supervisor");
  }
}

bool receive_packet(int socket, Packet* packet) {
  thread_local std::array<char, 4096> buffer;
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * wire::kMaxFds)> control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0 && errno == EAGAIN) return false;
  packet->fds.clear();
  packet->closed = received <= 0;
  packet->bytes.assign(buffer.data(), received > 0 ? size_t(received) : 0);
  if (received <= 0) return true;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    std::array<int, wire::kMaxFds> fds{};
    std::memcpy(fds.data(), CMSG_DATA(h), count * sizeof(int));
    for (size_t i = 0; i < count; ++i) packet->fds.emplace_back(fds[i]);
  }
  return true;
}

}  // namespace espalier::envs::sandbox
