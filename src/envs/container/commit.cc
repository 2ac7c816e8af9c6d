// A container's files as an image, and the second container that a fork starts from it.
#include <algorithm>
#include <array>

#include "common/error.h"
#include "envs/container/container.h"

namespace espalier::envs::container {
namespace {

using nlohmann::json;

// Engines refuse images of more than 127 layers.
constexpr size_t kMostLayers = 120;

// What engines put into a container themselves, so that it reads as changed.
constexpr std::array kEnginesOwn = {
    "/dev",  "/etc", "/etc/hostname",      "/etc/hosts",   "/etc/mtab", "/etc/resolv.conf",
    "/proc", "/run", "/run/.containerenv", "/run/secrets", "/sys",      "/.dockerenv"};

}  // namespace

/// Whether anything was written since the start.
bool Container::changed() {
  ApiCall call;
  call.what = "ask what changed in a container";
  call.path = "/containers/" + id_ + "/changes";
  const json changes = core_->engine.call_json(call);
  if (!changes.is_array()) return false;
  constexpr int kModified = 0, kAdded = 1;
  return std::any_of(changes.begin(), changes.end(), [=](const json& change) {
    const std::string path = change.value("Path", "");
    const int kind = change.value("Kind", kModified);
    return kind > kAdded ||
           std::find(kEnginesOwn.begin(), kEnginesOwn.end(), path) == kEnginesOwn.end();
  });
}

ImagePtr Container::commit(const std::string& store) {
  check_open();
  if (!changed()) return seed_.image;
  if (seed_.image->config().layers.size() >= kMostLayers)
    throw common::NotForkable("not forkable: the image has " +
                              std::to_string(seed_.image->config().layers.size()) +
                              " layers already; engines take no more than 127");
  ApiCall call;
  call.what = "commit a container";
  call.method = "POST";
  // The shell waits and nothing else runs: there is nothing to pause.
  call.path = "/commit?container=" + id_ + "&pause=false";
  for (const auto& [label, value] : {std::pair(kOwnerLabel, core_->owner), {kStoreLabel, store}})
    call.path +=
        "&changes=" + common::url_escape(std::string("LABEL ") + label + "=" + json(value).dump());
  // The image of the container's files must not keep what was set for the container.
  call.path += "&changes=" + common::url_escape("USER " + (seed_.image->config().user.empty()
                                                               ? std::string("0")
                                                               : seed_.image->config().user));
  call.json = json::object();
  const std::string id = core_->engine.call_json(call).at("Id");
  ImagePtr image = core_->inspect_image(id, store.empty(), seed_.image);
  if (!image) throw common::SandboxError("commit a container: the engine lost the image " + id);
  return image;
}

Fork fork_container(Container& container) {
  const Clock::time_point started = Clock::now();
  container.core()->require_room("fork");
  Seed seed = container.seed();
  seed.restore = container.session().dump();
  seed.last_exit_code = container.session().last_exit_code();
  seed.image = container.commit("");
  seed.resumed = true;
  Fork fork;
  fork.child = make_environment(Container::start(container.core(), std::move(seed)));
  fork.kind = ForkKind::value;
  fork.duration_us =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started).count();
  return fork;
}

}  // namespace espalier::envs::container
