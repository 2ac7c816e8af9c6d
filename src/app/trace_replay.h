// espalier trace replay: the recorded commands once more, in fresh sandboxes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tree/trace_json.h"

namespace espalier::app {

/// Where a replay did not do what is recorded.
struct Divergence {
  int node = -1;     // in the recorded tree
  std::string path;  // its
  std::string command;
  std::string what;                // "output", "exit code", "files", "reward", "end"
  std::string recorded, replayed;  // what was seen
  bool is_volatile = false;        // else it is real
  std::string why;                 // "time of day", "differs from replay to replay", …
};

struct TreeReplay {
  uint64_t index = 0;
  std::string task;
  int paths = 0, commands = 0, states = 0, rewards = 0;  // compared
  std::optional<Divergence> first;  // depth first; a real one before any that is volatile
  int real = 0, volatile_ones = 0;
};

/// Runs the commands of each path from root to leaf in a sandbox of its own, many at once, and
/// compares what they show, the states that have snapshots, and rewards. What differs is replayed a
/// second time: it is volatile when it is a time, a process id or the like, or when replays differ
/// among themselves. `tree`: one tree's name; empty: all. Calls `done` for each tree. Errors:
/// ConfigError, StoreError, SandboxError; Cancelled on Ctrl-C.
void replay_run(const std::filesystem::path& run, const std::string& tree,
                const std::function<void(const TreeReplay&)>& done);

tree::Json to_json(const TreeReplay& replay);
std::string to_text(const TreeReplay& replay);

}  // namespace espalier::app
