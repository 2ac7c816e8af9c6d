// Task files, laid into a read-only layer once and shared by every environment of the same task.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "envs/sandbox/core.h"
#include "envs/sandbox/image_root.h"

namespace espalier::envs::sandbox {

/// Thread contract: any thread. Layers live as long as a sandbox over them does.
class LayerCache {
 public:
  explicit LayerCache(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  /// The layer with the files of spec in its workdir, and what the image lacks as a sandbox's root
  /// (null: "host", which lacks nothing); null when it adds nothing. done comes on the reactor's
  /// thread. Errors: TaskError, SandboxError.
  void get(const EnvironmentSpec& spec, const ImageRootPtr& image, Completion<LayerPtr> done);

 private:
  struct Slot {
    std::weak_ptr<Layer> layer;
    bool pending = false;
    std::vector<Completion<LayerPtr>> waiting;
  };
  /// Enters done as waiting, or answers from the cache; true when the caller must make the layer.
  bool must_make(const std::string& key, Completion<LayerPtr> done);
  void made(const std::string& key, common::Result<LayerPtr> layer);

  std::shared_ptr<Core> core_;
  std::mutex mutex_;
  std::map<std::string, Slot> slots_;
};

}  // namespace espalier::envs::sandbox
