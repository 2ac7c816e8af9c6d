#include "envs/container/probe.h"

#include "common/error.h"
#include "envs/container/backend.h"
#include "envs/container/engine.h"
#include "envs/image/builder.h"

namespace espalier::envs {
namespace {

Capability program(const std::string& name, const std::string& use, const std::string& fix) {
  const std::filesystem::path found = image::find_program(name);
  if (found.empty()) return {name, false, false, "not on PATH; " + use, fix};
  try {
    return {name, true, false, image::version_of(found) + " (" + found.string() + "); " + use, ""};
  } catch (const common::Error& error) {
    return {name, false, false, error.what(), fix};
  }
}

Capability service() {
  const std::string name = "engine service";
  try {
    const container::Engine engine(find_engine_socket(""));
    return {name, true, false, engine.name() + " at " + engine.socket(), ""};
  } catch (const common::Error& error) {
    return {name, false, false, "none for env.backend=container", error.what()};
  }
}

}  // namespace

std::vector<Capability> probe_engines() {
  return {program("podman", "builds Dockerfiles, holds images by name, serves containers",
                  "apt-get install podman runc"),
          program("buildah", "builds Dockerfiles and holds images by name where podman is not",
                  "apt-get install buildah, unless there is podman"),
          program("docker", "its daemon serves containers; `docker save` makes archives of images",
                  "only for images that Docker has"),
          service()};
}

}  // namespace espalier::envs
