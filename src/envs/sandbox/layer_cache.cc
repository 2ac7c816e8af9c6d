#include "envs/sandbox/layer_cache.h"

#include <sys/stat.h>

#include "common/error.h"
#include "envs/sandbox/image_fittings.h"
#include "envs/sandbox/pack.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {
namespace {

/// Directories down to the workdir, then the files in it, all the agent's.
std::string make_pack(const EnvironmentSpec& spec) {
  std::string pack;
  std::string workdir = spec.workdir.substr(1);
  while (!workdir.empty() && workdir.back() == '/') workdir.pop_back();
  for (size_t end = 0; end != std::string::npos && !workdir.empty();) {
    end = workdir.find('/', end + 1);
    PackItem item;
    item.path = workdir.substr(0, end);
    item.mode = S_IFDIR | 0755;
    item.uid = item.gid = end == std::string::npos ? wire::kSandboxAgent : wire::kSandboxRoot;
    append_item(&pack, item);
  }
  if (!spec.files.empty()) pack += pack_directory(spec.files, workdir, wire::kSandboxAgent);
  return pack;
}

/// An image's own /usr may be worked in; the host's cannot be written to.
void require_plain_workdir(const std::string& workdir, bool host) {
  bool plain = workdir.size() > (host ? 1 : 0) && workdir[0] == '/' &&
               workdir.find("//") == std::string::npos &&
               (workdir + "/").find("/./") == std::string::npos &&
               (workdir + "/").find("/../") == std::string::npos;
  auto forbid = [&](const char* system) {
    plain = plain && (workdir + "/").rfind(std::string(system) + "/", 0) != 0;
  };
  for (const char* system : {"/dev", "/proc", "/sys"}) forbid(system);
  if (host)
    for (const char* system : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"})
      forbid(system);
  if (!plain)
    throw common::TaskError("start a sandbox: workdir '" + workdir +
                            "' must be an absolute path without '.' and '..', outside " +
                            (host ? "/usr, " : "") + "/dev, /proc, /sys");
}

}  // namespace

void LayerCache::get(const EnvironmentSpec& spec, const ImageRootPtr& image,
                     Completion<LayerPtr> done) {
  auto refuse = [&](std::exception_ptr error) { core_->post([done, error] { done(error); }); };
  std::string key;
  try {
    require_plain_workdir(spec.workdir, !image);
    if (!image && spec.files.empty() && spec.workdir == kDefaultWorkdir)
      return core_->post([done] { done(LayerPtr()); });
    key = spec.image + '\0' + (spec.root ? "root" : "") + '\0' + spec.workdir + '\0' +
          (spec.files.empty() ? "" : directory_signature(spec.files));
  } catch (const common::Error&) {
    return refuse(std::current_exception());
  }
  if (!must_make(key, done)) return;
  try {
    core_->post([this, key, pack = image ? fittings_pack(spec, *image) : make_pack(spec)] {
      core_->add_layer(
          pack, [this, key](common::Result<LayerPtr> layer) { made(key, std::move(layer)); });
    });
  } catch (const common::Error&) {
    core_->post([this, key, error = std::current_exception()] { made(key, error); });
  }
}

bool LayerCache::must_make(const std::string& key, Completion<LayerPtr> done) {
  std::lock_guard lock(mutex_);
  std::erase_if(
      slots_, [](const auto& slot) { return !slot.second.pending && slot.second.layer.expired(); });
  Slot& slot = slots_[key];
  if (LayerPtr layer = slot.layer.lock()) {
    core_->post([done = std::move(done), layer] { done(layer); });
    return false;
  }
  slot.waiting.push_back(std::move(done));
  return !std::exchange(slot.pending, true);
}

void LayerCache::made(const std::string& key, common::Result<LayerPtr> layer) {
  std::vector<Completion<LayerPtr>> waiting;
  {
    std::lock_guard lock(mutex_);
    Slot& slot = slots_[key];
    slot.pending = false;
    if (layer.ok()) slot.layer = layer.value();
    waiting.swap(slot.waiting);
  }
  for (auto& done : waiting) done(layer);
}

}  // namespace espalier::envs::sandbox
