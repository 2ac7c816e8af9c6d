#include "envs/container/core.h"

#include "common/error.h"

namespace espalier::envs::container {
Image::~Image() {
  if (!temporary_) return;
  auto core = core_.lock();
  if (!core) return;
  core->threads.post([core, id = id_, parent = std::move(parent_)] {
    ApiCall call;
    call.what = "remove the image of a fork";
    call.method = "DELETE";
    call.path = "/images/" + id + "?force=1";
    call.may_miss = true;
    try {
      core->engine.call(call);
    } catch (const common::Error&) {
      // Another image still stands on it, a snapshot say: `env clean` finds it later.
    }
  });
}

Core::Core(ContainerOptions container_options)
    : options(std::move(container_options)), engine(find_engine_socket(options.socket)) {}

void Core::close() {
  threads.join();
  reactor.stop();
}

void Core::require_room(const std::string& what) const {
  if (live < options.max_live) return;
  throw common::SandboxError(what + ": " + std::to_string(live) +
                             " environments live; max_live is " + std::to_string(options.max_live));
}

}  // namespace espalier::envs::container
