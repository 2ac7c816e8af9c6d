// What a process that was killed could not remove: control groups, temporary directories.
//
// Sandboxes' processes, mounts and layers need no such care: they end with the supervisor, and it
// with the trainer.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace espalier::envs {

struct Leftover {
  std::string kind;  // "control group", "temporary directory"
  std::filesystem::path path;
  std::string failure;  // why it could not be removed; empty: it was, or was only to be listed
};

/// Everything left by processes of this machine and user that are gone. With `remove`, ends what
/// still runs in those groups and removes all of it; every start of a sandbox backend does so.
/// Nothing of a living process is touched, nor of one that cannot be told from a dead one (another
/// process id namespace).
std::vector<Leftover> sweep_leftovers(bool remove);

namespace sandbox {

/// Names this process in what it makes: process id, start time and process id namespace, so that a
/// process id used again is not taken for its owner.
std::string owner_tag();
/// True when the tag is of a process that is certainly gone.
bool owner_is_gone(const std::string& tag);

}  // namespace sandbox
}  // namespace espalier::envs
