// The system call filter of every sandbox.
#pragma once

#include <string>

namespace espalier::envs::sandbox {

/// The filter as a BPF program (struct sock_filter[]), built by libseccomp: everything is allowed
/// but what docs/sandbox.md lists. Errors: SandboxError.
std::string build_seccomp_program();

}  // namespace espalier::envs::sandbox
