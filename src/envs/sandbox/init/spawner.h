// The spawner: one small single-threaded process per backend that owns the private mount namespace
// in which all layers lie. It ends when its socket does. Copies of it do the work that waits:
// cradles bring up sandboxes, each in the control groups it sits in (joining one can take
// milliseconds, so that has been done by then); keepers freeze sessions and copy them.
#pragma once

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include "envs/sandbox/init/sys.h"
#include "envs/sandbox/wire.h"

struct sock_filter;

namespace espalier::envs::init {

/// What configure() found and built; constant afterwards.
struct Base {
  bool root_mode = false;   // the real root: uids are shifted, overlay marks are trusted.*
  bool disk_upper = false;  // uppers are directories of the scratch directory
  bool long_lowers = true;  // the kernel takes overlay's "lowerdir+" (6.7 and later)
  int last_capability = 0;  // that the kernel knows
  uint32_t uid_base = 0;    // sandbox uid 0, as this process sees uids
  int proc_fd = -1;         // the host's /proc
  int skeleton_fd = -1;     // the lowest layer
  int template_ns = -1;     // mount namespace each sandbox starts from
  // Root mode: shifted user namespaces, each in the one before it. The agent owns all but the
  // first, so that a process of his in one may enter the next.
  int user_ns[wire::kMaxDepth + 2];
  uint32_t user_ns_count = 0;
  const sock_filter* seccomp = nullptr;
  uint16_t seccomp_length = 0;

  const char* opaque_xattr() const {
    return root_mode ? "trusted.overlay.opaque" : "user.overlay.opaque";
  }
  uint32_t outer_uid(uint32_t inner) const { return root_mode ? uid_base + inner : 0; }
};

/// Enters the namespaces, builds the skeleton and the template (skeleton.cc).
bool build_base(const wire::ConfigureRequest& request, const char* scratch, const char* images,
                Base* base, Failure* failure);

/// A user namespace with sandbox uids 0.. mapped to base.uid_base..; -1 on failure.
int make_user_namespace(const Base& base, Failure* failure);
/// The same inside the namespace `outer`, owned by the agent.
int nest_user_namespace(const Base& base, int outer, Failure* failure);

/// l/ID/u shows the detached mount, or where that is -1 the directory at `path` below the image
/// cache (attach.cc).
bool attach_layer(uint64_t id, int mount_fd, const char* path, Failure* failure);
/// Undoes it; false when the layer is not an attached one.
bool detach_layer(uint64_t id);

/// What the cloned child needs to become a sandbox.
struct SandboxPlan {
  int overlay_fd = -1;  // detached overlay mount
  int control_fd = -1;  // init's end of the control socket
  int link_fd = -1;     // to the keeper that puts a copied session into it; -1: none
  cpu_set_t cpus;       // where it may run
  wire::SpawnRequest request{};
};

/// Runs in the child of the clone; never returns (sandbox.cc, pid1.cc).
[[noreturn]] void sandbox_main(const Base& base, const SandboxPlan& plan);
[[noreturn]] void pid1_loop(int control_fd, const Base& base, const wire::SpawnRequest& request);

/// Joins the groups and brings up sandboxes in them until the channel closes (cradle.cc).
[[noreturn]] void cradle_main(Base* base, int channel, const int* groups, size_t group_count);
/// Freezes and copies sessions until the channel closes (keeper.cc).
[[noreturn]] void keeper_main(const Base& base, int channel);

/// Serves requests on `socket` until it closes.
[[noreturn]] void spawner_main(int socket);

}  // namespace espalier::envs::init
