#include "envs/sandbox/channel.h"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

std::exception_ptr error(const std::string& text) {
  return std::make_exception_ptr(common::SandboxError(text));
}

}  // namespace

std::string describe(const wire::SpawnerReply& reply) {
  std::string text(reply.text, strnlen(reply.text, sizeof reply.text));
  if (text.empty()) text = std::strerror(reply.error);
  // Also said by a full disk, hence the steps at which it means something else.
  for (const char* step : {"clone the", "unshare(", "name the sandboxes", "enter the network"})
    if (reply.error == ENOSPC && text.starts_with(step))
      return text +
             ": more namespaces than this machine allows (as root: sysctl user.max_net_namespaces "
             "and the other user.max_*_namespaces)";
  return text;
}

void Channel::open(Fd socket, Reactor* reactor) {
  socket_ = std::move(socket);
  reactor_ = reactor;
  reactor_->watch(socket_.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); });
}

void Channel::close(const std::string& why) {
  if (!socket_) return;
  reactor_->unwatch(socket_.get());
  socket_.reset();
  outgoing_.clear();
  auto waiting = std::move(waiting_);
  waiting_.clear();
  for (auto& [ticket, done] : waiting) done(error(why));
}

void Channel::call(std::string request, std::vector<Fd> fds, Reply done) {
  if (!socket_) {
    if (done) done(error("the sandbox supervisor has ended; restart the program"));
    return;
  }
  wire::SpawnerHeader header;
  std::memcpy(&header, request.data(), sizeof header);
  header.ticket = next_ticket_++;
  std::memcpy(request.data(), &header, sizeof header);
  if (done) waiting_.emplace(header.ticket, std::move(done));
  outgoing_.push_back({std::move(request), std::move(fds)});
  flush();
}

void Channel::call(wire::SpawnerOp op, uint64_t id, std::vector<Fd> fds, Reply done) {
  wire::SpawnerHeader header{op, 0, id, 0};
  call(std::string(reinterpret_cast<const char*>(&header), sizeof header), std::move(fds),
       std::move(done));
}

void Channel::flush() {
  try {
    while (!outgoing_.empty()) {
      std::vector<int> fds;
      for (const Fd& fd : outgoing_.front().fds) fds.push_back(fd.get());
      if (!send_packet(socket_.get(), outgoing_.front().bytes, fds)) {
        reactor_->rearm(socket_.get(), EPOLLIN | EPOLLOUT);
        return;
      }
      outgoing_.pop_front();
    }
    reactor_->rearm(socket_.get(), EPOLLIN);
  } catch (const common::SandboxError& e) {
    close(e.what());
  }
}

void Channel::on_ready(uint32_t events) {
  if (events & EPOLLOUT) flush();
  Packet packet;
  while (socket_ && receive_packet(socket_.get(), &packet)) {
    if (packet.closed) return close("the sandbox supervisor ended unexpectedly");
    wire::SpawnerReply reply;
    if (packet.bytes.size() != sizeof reply) continue;
    std::memcpy(&reply, packet.bytes.data(), sizeof reply);
    auto found = waiting_.find(reply.header.ticket);
    if (found == waiting_.end()) continue;
    Reply done = std::move(found->second);
    waiting_.erase(found);
    if (reply.error) {
      done(error("sandbox supervisor: " + describe(reply)));
    } else {
      std::string text(reply.text, strnlen(reply.text, sizeof reply.text));
      done(SpawnerReplyFds{reply.value, reply.extra, std::move(text), std::move(packet.fds)});
    }
    packet = Packet{};
  }
}

}  // namespace espalier::envs::sandbox
