// What an image needs to be the root of a sandbox: where it is asked for nothing, its own settings;
// where it lacks something, a small layer over it.
#pragma once

#include <string>

#include "envs/environment.h"
#include "envs/sandbox/image_root.h"

namespace espalier::envs::sandbox {

/// The specification with what the image says filled in: working directory, variables below the
/// task's, the session's user. image null: "host". Errors: TaskError when the session cannot run in
/// this image, naming what is missing.
EnvironmentSpec fitted(const EnvironmentSpec& spec, const ImageRoot* image);

/// The pack of the layer: /dev, mount points, /etc/hosts, a user for the agent, directories for
/// logs, and the files of spec in its working directory. Errors: TaskError.
std::string fittings_pack(const EnvironmentSpec& spec, const ImageRoot& image);

}  // namespace espalier::envs::sandbox
