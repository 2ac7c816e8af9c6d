// The public network of a sandbox whose task has it.
#include <sys/epoll.h>
#include <sys/stat.h>

#include "common/error.h"
#include "envs/sandbox/pack.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"

namespace espalier::envs::sandbox {

/// Starts the way out; the sandbox counts as started once it is up and names can be resolved.
void Sandbox::connect_network() {
  try {
    network_ = std::make_unique<PublicNetwork>(
        pid_of(pidfd_.get()), core_->spawner.root_mode() ? 0 : core_->spawner.process());
  } catch (const common::Error& e) {
    fail(e.what());
    return kill(nullptr);
  }
  auto self = shared_from_this();
  core_->reactor.watch(network_->ready_fd(), EPOLLIN, [self](uint32_t) {
    self->core_->reactor.unwatch(self->network_->ready_fd());
    if (!self->network_->up()) {
      self->fail("give the sandbox the public network: slirp4netns ended at once");
      return self->kill(nullptr);
    }
    PackItem item;
    item.path = "resolv.conf";
    item.mode = S_IFREG | 0644;
    item.content = kResolvConf;
    std::string pack;
    append_item(&pack, item);
    self->put("/etc", false, make_memory_file("espalier-put", pack),
              [self](common::Result<common::Done> r) {
                self->network_up_ = r.ok();
                if (r.ok()) self->maybe_started();
              });
  });
}

}  // namespace espalier::envs::sandbox
