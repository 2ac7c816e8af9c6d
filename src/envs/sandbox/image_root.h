// Images as the roots of sandboxes: resolved once a backend, their layers known to the spawner.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "envs/image/image.h"
#include "envs/image/view.h"
#include "envs/sandbox/core.h"
#include "envs/threads.h"

namespace espalier::envs::sandbox {

/// Immutable once made.
struct ImageRoot {
  image::Image image;
  image::ImageView view;
  std::vector<LayerPtr> layers;  // topmost first
};
using ImageRootPtr = std::shared_ptr<const ImageRoot>;

/// Thread contract: any thread. Images stay until the backend is closed.
class ImageRoots {
 public:
  explicit ImageRoots(Core& core);
  ~ImageRoots();

  /// done comes at once where the image is known, and with null for "host"; else later, on another
  /// thread. Errors: as image::ImageStore::resolve, SandboxError.
  void get(const std::string& reference, Completion<ImageRootPtr> done);

  /// Cancels what is in progress, and waits for it.
  void stop();

 private:
  struct Slot {
    ImageRootPtr root;
    std::vector<Completion<ImageRootPtr>> waiting;
  };
  void prepare(const std::string& reference);
  void attach(std::shared_ptr<ImageRoot> root, Fd mount);
  void finish(const std::string& reference, common::Result<ImageRootPtr> result);

  Core& core_;
  image::LayerFormat format_;
  std::filesystem::path cache_;
  image::ImageStore store_;
  std::mutex mutex_;
  std::map<std::string, Slot> slots_;
  Threads worker_{1};
};

/// null: "host".
BaseImage base_of(const ImageRootPtr& image);

/// The directory of the image cache, made where it is missing; empty where it cannot be: then
/// images that need it are refused.
std::filesystem::path prepare_image_cache(const std::filesystem::path& wanted);

}  // namespace espalier::envs::sandbox
