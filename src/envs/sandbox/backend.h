// The local sandbox backend: Linux namespaces, overlay layers, seccomp, control groups
// (docs/sandbox.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "envs/environment.h"

namespace espalier::envs {

struct SandboxOptions {
  std::filesystem::path
      snapshot_dir;        // where snapshot() writes and open() reads; empty: neither works
  size_t max_live = 4096;  // create, open and fork beyond it fail with SandboxError
  std::filesystem::path image_cache;  // where images are laid out; empty: default_image_cache()
  uint32_t uid_base = 100000;         // as root: sandbox uids 0-65535 are this and up outside
  // For the determinism test: each finished command is held back by a random time up to this.
  int extra_command_delay_ms_max = 0;
  uint64_t delay_seed = 0;
  bool force_disk_upper =
      false;  // keep written files on disk, as on kernels whose tmpfs lacks user xattrs
  bool force_rlimits = false;  // use no control groups, as on machines that have none to use
};

/// Starts the supervisor process and builds the base of all sandboxes (tens of milliseconds).
/// Environments must be destroyed before their backend. Images: envs/image/image.h. Errors:
/// SandboxError that says what this machine lacks and how to mend it.
std::unique_ptr<Backend> make_sandbox_backend(SandboxOptions options);

}  // namespace espalier::envs
