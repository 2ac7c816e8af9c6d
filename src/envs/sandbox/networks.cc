#include "envs/sandbox/networks.h"

#include <utility>

namespace espalier::envs::sandbox {
namespace {

constexpr size_t kAhead = 2;  // a fork needs one for each side

}  // namespace

Fd NetworkPool::take(uint32_t depth) {
  std::vector<Fd>& idle = shelves_[depth].idle;
  if (idle.empty()) return {};
  Fd network = std::move(idle.back());
  idle.pop_back();
  return network;
}

void NetworkPool::give_back(uint32_t depth, Fd network) {
  if (network) shelves_[depth].idle.push_back(std::move(network));
}

void NetworkPool::prepare(uint32_t depth, Channel& maker) {
  if (depth >= shelves_.size()) return;
  Shelf& shelf = shelves_[depth];
  for (size_t have = shelf.idle.size() + shelf.coming; have < kAhead; ++have) {
    ++shelf.coming;
    maker.call(wire::SpawnerOp::network, depth, {}, [&shelf](common::Result<SpawnerReplyFds> r) {
      --shelf.coming;
      // Where it could not be made, the sandbox that needs one says why.
      if (r.ok() && r.value().fds.size() == 1) shelf.idle.push_back(std::move(r.value().fds[0]));
    });
  }
}

}  // namespace espalier::envs::sandbox
