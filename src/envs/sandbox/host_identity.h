// What the image "host" is called in a snapshot.
#pragma once

#include <string>

namespace espalier::envs::sandbox {

/// Distribution, its release and the architecture: "host:debian-12-x86_64". A snapshot holds what a
/// sandbox has written, not the host's programs.
std::string host_identity();

}  // namespace espalier::envs::sandbox
