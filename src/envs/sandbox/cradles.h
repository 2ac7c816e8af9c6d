// Places for sandboxes: control groups, each with a process of the supervisor in it that brings the
// sandbox up (init/cradle.cc).
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "envs/environment.h"
#include "envs/reactor.h"
#include "envs/sandbox/cgroups.h"
#include "envs/sandbox/spawner.h"

namespace espalier::envs::sandbox {

struct Cradle {
  std::unique_ptr<Cgroup> group;  // null where the machine has no usable controller
  std::unique_ptr<Channel> channel;
  int processor = -1;  // where it works; -1: anywhere
};

/// Makes, reuses and ends cradles; one is always made ahead, for joining the groups may take
/// milliseconds. Thread contract: the reactor's thread; the destructor any, once the spawner has
/// stopped.
class CradlePool {
 public:
  CradlePool(Spawner* spawner, CgroupPool* groups, Reactor* reactor, std::vector<int> processors)
      : spawner_(spawner), groups_(groups), reactor_(reactor), processors_(std::move(processors)) {}
  ~CradlePool();
  CradlePool(const CradlePool&) = delete;
  CradlePool& operator=(const CradlePool&) = delete;

  /// For a sandbox of these limits, to be brought up elsewhere than on processor `avoid`. Errors:
  /// SandboxError.
  std::unique_ptr<Cradle> take(const Limits& limits, int avoid = -1);
  /// Once every process of the sandbox is gone.
  void give_back(const Limits& limits, std::unique_ptr<Cradle> cradle);
  /// Ends all that are idle.
  void close();

 private:
  using Key = std::tuple<size_t, size_t, int, double>;
  static Key key(const Limits& limits);
  std::unique_ptr<Cradle> make(const Limits& limits);
  int processor_other_than(int avoid);
  void retire(std::unique_ptr<Cradle> cradle);
  void discard_retired();

  Spawner* spawner_;
  CgroupPool* groups_;
  Reactor* reactor_;
  const std::vector<int> processors_;
  size_t next_processor_ = 0;
  bool closed_ = false;
  bool discarding_ = false;
  std::map<Key, std::deque<std::unique_ptr<Cradle>>> idle_;
  std::vector<std::unique_ptr<Cgroup>> retired_;  // to be removed once their cradles have left them
};

}  // namespace espalier::envs::sandbox
