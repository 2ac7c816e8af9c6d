#include "envs/sandbox/image_root.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>

#include "common/error.h"
#include "envs/sandbox/host_identity.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

/// Overlay takes idmapped layers since Linux 5.19.
bool overlay_takes_idmaps() {
  utsname name{};
  int major = 0, minor = 0;
  uname(&name);
  std::sscanf(name.release, "%d.%d", &major, &minor);
  return major > 5 || (major == 5 && minor >= 19);
}

/// A detached mount of the directory in which uid 0 is the sandbox's root; none where the kernel or
/// the file system refuses.
Fd idmapped_mount(const fs::path& directory, int user_namespace) {
  if (user_namespace < 0 || !overlay_takes_idmaps()) return Fd();
  Fd mount(int(syscall(SYS_open_tree, AT_FDCWD, directory.c_str(),
                       unsigned(OPEN_TREE_CLONE) | unsigned(OPEN_TREE_CLOEXEC))));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  attributes.userns_fd = uint64_t(user_namespace);
  if (mount &&
      syscall(SYS_mount_setattr, mount.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes))
    mount.reset();
  return mount;
}

}  // namespace

fs::path prepare_image_cache(const fs::path& wanted) {
  fs::path cache = wanted.empty() ? image::default_image_cache() : fs::absolute(wanted);
  std::error_code error;
  fs::create_directories(cache, error);
  return fs::is_directory(cache, error) ? cache : fs::path();
}

BaseImage base_of(const ImageRootPtr& image) {
  if (!image) return {host_identity(), {}};
  return {image->image.identity, image->layers};
}

ImageRoots::ImageRoots(Core& core)
    : core_(core),
      format_{core.spawner.root_mode(), core.options.uid_base},
      cache_(prepare_image_cache(core.options.image_cache)),
      store_({cache_, format_}) {}

ImageRoots::~ImageRoots() = default;

void ImageRoots::stop() {
  store_.cancel();
  worker_.join();
}

void ImageRoots::get(const std::string& reference, Completion<ImageRootPtr> done) {
  if (reference == kHostImage) return done(ImageRootPtr());
  ImageRootPtr known;
  {
    std::lock_guard lock(mutex_);
    Slot& slot = slots_[reference];
    known = slot.root;
    if (!known) {
      slot.waiting.push_back(std::move(done));
      if (slot.waiting.size() == 1) worker_.post([this, reference] { prepare(reference); });
      return;
    }
  }
  done(known);
}

void ImageRoots::prepare(const std::string& reference) {
  try {
    image::Image image;
    Fd mount;
    if (format_.keep_owners) {
      image = store_.resolve(reference, image::Directories::in_place);
      if (image.in_place)
        mount = idmapped_mount(image.layers.front(), core_.spawner.user_namespace());
    }
    if (!format_.keep_owners || (image.in_place && !mount))
      image = store_.resolve(reference, image::Directories::copied);
    image::ImageView view(image, format_);
    attach(std::make_shared<ImageRoot>(ImageRoot{std::move(image), std::move(view), {}}),
           std::move(mount));
  } catch (const common::Error&) {
    finish(reference, std::current_exception());
  } catch (const std::exception& error) {
    finish(reference, std::make_exception_ptr(common::SandboxError(
                          "prepare the image '" + reference + "': " + error.what())));
  }
}

/// Makes the layers known to the spawner, and waits for it.
void ImageRoots::attach(std::shared_ptr<ImageRoot> root, Fd mount) {
  using Layers = std::vector<LayerPtr>;
  auto held = std::make_shared<Fd>(std::move(mount));
  Layers layers = common::await<Layers>([&](Completion<Layers> done) {
    core_.post([this, root, held, done] {
      struct Progress {
        Layers layers;
        size_t left;
        std::exception_ptr error;
      };
      auto progress = std::make_shared<Progress>();
      progress->left = root->image.layers.size();
      for (const fs::path& path : root->image.layers) {
        progress->layers.push_back(core_.new_layer());
        std::string below = *held ? "" : path.lexically_relative(cache_).string();
        core_.spawner.attach_layer(progress->layers.back()->id(), std::move(*held), below,
                                   [progress, done](common::Result<SpawnerReplyFds> r) {
                                     if (!r.ok()) progress->error = r.error();
                                     if (--progress->left) return;
                                     if (progress->error) return done(progress->error);
                                     done(progress->layers);
                                   });
      }
    });
  });
  root->layers = std::move(layers);
  finish(root->image.reference, ImageRootPtr(root));
}

void ImageRoots::finish(const std::string& reference, common::Result<ImageRootPtr> result) {
  std::vector<Completion<ImageRootPtr>> waiting;
  {
    std::lock_guard lock(mutex_);
    Slot& slot = slots_[reference];
    if (result.ok()) slot.root = result.value();
    waiting.swap(slot.waiting);
  }
  for (auto& done : waiting) done(result);
}

}  // namespace espalier::envs::sandbox
