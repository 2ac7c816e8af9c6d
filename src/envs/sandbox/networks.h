// Network namespaces without a way out, to be used again: one is dear to make, and nobody inside
// can change it.
#pragma once

#include <array>
#include <vector>

#include "envs/sandbox/channel.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

/// One list for each depth of live forks: the namespaces of a depth belong to its user namespace.
/// Thread contract: the reactor's thread.
class NetworkPool {
 public:
  /// Empty when there is none; the cradle then makes one.
  Fd take(uint32_t depth);
  /// After the last process in it is gone. The next user makes sure that it is as new.
  void give_back(uint32_t depth, Fd network);
  /// Has `maker`, a cradle with nothing else to do, make what the forks of a sandbox of the depth
  /// before will need.
  void prepare(uint32_t depth, Channel& maker);

 private:
  struct Shelf {
    std::vector<Fd> idle;
    size_t coming = 0;
  };
  std::array<Shelf, wire::kMaxDepth + 1> shelves_;
};

}  // namespace espalier::envs::sandbox
