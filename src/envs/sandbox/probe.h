// What this machine offers for sandboxes, for `espalier doctor`.
#pragma once

#include <string>
#include <vector>

namespace espalier::envs {

/// One kernel facility, tried rather than guessed.
struct Capability {
  std::string name;  // "user namespaces"
  bool available = false;
  bool required = false;  // without it there are no sandboxes
  std::string detail;     // what was seen
  std::string fix;        // how to have it; empty when available
};

/// Tries every facility in a child process; leaves nothing behind. Never throws.
std::vector<Capability> probe();

}  // namespace espalier::envs
