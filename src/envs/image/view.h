// What the layers of an image show together, read from outside.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "envs/image/image.h"

namespace espalier::envs::image {

/// Thread contract: immutable; any thread while the layers lie there.
class ImageView {
 public:
  ImageView(const Image& image, const LayerFormat& format);

  struct Found {
    std::string path;            // without symbolic links; "" is the root
    std::filesystem::path host;  // where it lies
    mode_t mode = 0;
    uint32_t uid = 0, gid = 0;  // as inside
  };
  /// Follows symbolic links as a process inside would; nullopt: not there. "usr/bin" and
  /// "/usr/bin" are the same.
  std::optional<Found> find(const std::string& path) const;
  /// The path with the symbolic links of its existing part resolved, without a leading '/'.
  std::string resolve(const std::string& path) const;
  /// At most max_bytes of a regular file; nullopt: no such file.
  std::optional<std::string> read(const std::string& path, size_t max_bytes) const;

 private:
  /// A component of a path that has been walked.
  struct Step {
    std::string name;
    bool there = false;
    std::vector<size_t> layers;  // of a directory: those that show in it, topmost first
    std::filesystem::path host;
    struct stat st {};
  };
  Step step(const std::vector<Step>& from, const std::string& name) const;
  std::vector<Step> walk(const std::string& path) const;

  std::vector<std::filesystem::path> layers_;  // topmost first
  LayerFormat format_;
  bool shifted_;
};

}  // namespace espalier::envs::image
