// Which container engines and builders of images this machine has, for `espalier doctor`.
#pragma once

#include <vector>

#include "envs/sandbox/probe.h"

namespace espalier::envs {

/// docker, podman and buildah as programs, and what answers at the engine's socket. None of them is
/// required. Starts nothing but `PROGRAM --version`. Never throws.
std::vector<Capability> probe_engines();

}  // namespace espalier::envs
