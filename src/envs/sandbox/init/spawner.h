// The spawner: one small single-threaded process per backend that owns the private mount namespace
// in which all layers lie, and from which every sandbox is cloned. It ends when its socket does.
#pragma once

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
  uint32_t uid_base = 0;    // sandbox uid 0, as this process sees uids
  int proc_fd = -1;         // the host's /proc
  int skeleton_fd = -1;     // the lowest layer
  int template_ns = -1;     // mount namespace each sandbox starts from
  int user_ns = -1;         // root mode: the shifted user namespace
  const sock_filter* seccomp = nullptr;
  uint16_t seccomp_length = 0;

  const char* opaque_xattr() const {
    return root_mode ? "trusted.overlay.opaque" : "user.overlay.opaque";
  }
  uint32_t outer_uid(uint32_t inner) const { return root_mode ? uid_base + inner : 0; }
};

/// Enters the namespaces, builds the skeleton and the template (skeleton.cc).
bool build_base(const wire::ConfigureRequest& request, const char* scratch, Base* base,
                Failure* failure);

/// A user namespace with sandbox uids 0.. mapped to base.uid_base..; -1 on failure.
int make_user_namespace(const Base& base, Failure* failure);

/// What the cloned child needs to become a sandbox.
struct SandboxPlan {
  int overlay_fd = -1;  // detached overlay mount
  int control_fd = -1;  // init's end of the control socket
  const int* cgroup_fds = nullptr;
  size_t cgroup_count = 0;
  int user_ns = -1;
  wire::SpawnRequest request{};
};

/// Runs in the child of the clone; never returns (sandbox.cc, pid1.cc).
[[noreturn]] void sandbox_main(const Base& base, const SandboxPlan& plan);
[[noreturn]] void pid1_loop(int control_fd, bool root_mode);

/// Serves requests on `socket` until it closes.
[[noreturn]] void spawner_main(int socket);

}  // namespace espalier::envs::init
