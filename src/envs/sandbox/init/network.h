// The network namespace of a sandbox: its loopback, and what stays closed when it has a way out.
#pragma once

#include "envs/sandbox/init/sys.h"

namespace espalier::envs::init {

/// Notes the host's own addresses; in the host's network namespace.
void remember_host_addresses();

/// A fresh network namespace has its loopback down.
void raise_loopback();

/// Makes everything but the public Internet unreachable: private, link-local (clouds' metadata
/// services), shared and multicast ranges, and the host's own addresses. Nothing inside can change
/// it: that takes CAP_NET_ADMIN over the namespace. In the sandbox's network namespace.
bool close_private_routes(Failure* failure);

}  // namespace espalier::envs::init
