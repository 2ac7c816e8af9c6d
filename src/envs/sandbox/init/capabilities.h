// What programs inside a sandbox may have.
#pragma once

#include <linux/capability.h>
#include <stdint.h>

namespace espalier::envs::init {

constexpr uint64_t capability_bit(int capability) { return uint64_t{1} << capability; }

// For a program run as the sandbox's root: Docker's default without NET_RAW, MKNOD and AUDIT_WRITE.
inline constexpr uint64_t kBoundingSet =
    capability_bit(CAP_CHOWN) | capability_bit(CAP_DAC_OVERRIDE) | capability_bit(CAP_FSETID) |
    capability_bit(CAP_FOWNER) | capability_bit(CAP_SETGID) | capability_bit(CAP_SETUID) |
    capability_bit(CAP_SETPCAP) | capability_bit(CAP_NET_BIND_SERVICE) |
    capability_bit(CAP_SYS_CHROOT) | capability_bit(CAP_KILL) | capability_bit(CAP_SETFCAP);
// What init itself keeps: it looks into /proc of the agent's processes as well.
inline constexpr uint64_t kInitSet =
    kBoundingSet | capability_bit(CAP_SYS_PTRACE) | capability_bit(CAP_DAC_READ_SEARCH);

}  // namespace espalier::envs::init
