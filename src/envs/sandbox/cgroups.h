// Control groups for sandboxes: memory, processes and CPU, in whichever of v1 and v2 this machine
// has.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/sandbox/fd.h"

namespace espalier::envs::sandbox {

/// Every group's name begins with this, followed by its owner's tag (leftovers.h).
inline constexpr const char* kGroupPrefix = "espalier-";

/// Where groups can be made: one directory a v1 hierarchy, one directory for v2.
struct CgroupSite {
  std::string controllers;          // comma-separated: "memory", "memory,pids,cpu"
  std::filesystem::path directory;  // parent of our groups
  bool v2 = false;
  bool has(const std::string& controller) const;
};

/// Every controller of memory, pids and cpu that this process may use. Makes nothing that stays.
/// `missing` (may be null) gets a line for each one that it may not, with the reason.
std::vector<CgroupSite> find_cgroup_sites(std::vector<std::string>* missing);

/// What the groups that this process is in leave it of memory; the largest number where none says.
size_t own_memory_limit();

/// The groups of one sandbox, made for the limits they were taken with.
struct Cgroup {
  std::vector<std::filesystem::path> directories;  // one a site
  std::vector<Fd> procs;                           // cgroup.procs of each, open for writing
};

/// Makes, reuses and removes groups. Thread contract: one thread at a time.
class CgroupPool {
 public:
  /// Not enabled: as on a machine without usable controllers.
  explicit CgroupPool(bool enabled = true);
  ~CgroupPool();
  CgroupPool(const CgroupPool&) = delete;
  CgroupPool& operator=(const CgroupPool&) = delete;

  bool limits_memory() const { return memory_; }
  bool limits_processes() const { return pids_; }
  /// Null where the machine has no usable controller. Errors: SandboxError.
  std::unique_ptr<Cgroup> take(const Limits& limits);
  /// Kills every process of the group, where the kernel can (v2).
  void kill(const Cgroup& group);
  /// True when what its processes used is free again.
  bool reusable(const Cgroup& group) const;
  /// Removes a group. False while there are processes in it.
  bool discard(const Cgroup& group);
  /// For the next sandbox, once every process of this one is gone.
  void give_back(const Limits& limits, std::unique_ptr<Cgroup> group);

 private:
  using Key = std::tuple<size_t, size_t, int, double>;
  static Key key(const Limits& limits);
  std::unique_ptr<Cgroup> make(const Limits& limits);
  void remove(const Cgroup& group);

  std::vector<CgroupSite> sites_;
  std::string prefix_;  // of this pool's groups
  bool memory_ = false;
  bool pids_ = false;
  uint64_t next_ = 0;
  std::map<Key, std::vector<std::unique_ptr<Cgroup>>> idle_;
};

}  // namespace espalier::envs::sandbox
