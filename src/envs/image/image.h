// Images: what the root of a sandbox is made of, found, checked and laid out once in a cache.
//
// A reference names one: "host"; a directory that is a root ("dir:PATH" or a path); a root in a
// tarball (.tar, .tar.gz, .tar.xz, .tar.zst); an OCI layout, directory or tarball; a `docker save`
// archive; a Dockerfile, or a directory that holds one, built by podman or buildah; else the name
// of an image in podman's or buildah's own store. Nothing is ever fetched from a network here, but
// by the commands of a Dockerfile.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "envs/image/layer_writer.h"

namespace espalier::envs::image {

/// What an image says of how its programs are to be run. An entry point is ignored.
struct ImageConfig {
  bool present = false;  // a bare root has none
  std::map<std::string, std::string> variables;
  std::string workdir;
  std::string user;  // as written: "", "root", "node", "1000:1000"
};

struct Image {
  std::string reference;
  /// Equal for the same content on any machine: "sha256:…" of a configuration (Docker's image id)
  /// or of an uncompressed tarball, "tree:…" of a directory's names, modes, owners, sizes, times
  /// and links.
  std::string identity;
  std::vector<std::filesystem::path> layers;  // topmost first; below the cache, unless in_place
  bool in_place = false;  // the layer is the user's directory itself, its owners as inside
  ImageConfig config;
};

struct ImageStoreOptions {
  std::filesystem::path cache;  // made, with mode 0700, when first needed
  LayerFormat format;
};

enum class Directories { in_place, copied };

/// Thread contract: one owner, but for cancel(). Any number of processes may share a cache: a layer
/// appears in it whole or not at all, what a killed process left half-made is removed by the next.
class ImageStore {
 public:
  explicit ImageStore(ImageStoreOptions options) : options_(std::move(options)) {}

  /// Blocks: seconds for a large archive, minutes for a Dockerfile, then milliseconds. Never called
  /// for "host". Errors: TaskError (the image is missing, damaged or unsuited; names file and
  /// member), StoreError (the cache cannot be written), Cancelled.
  Image resolve(const std::string& reference, Directories directories);

  /// Lets resolve() end soon, now and later, with Cancelled. Any thread.
  void cancel() { cancelled_ = true; }

 private:
  ImageStoreOptions options_;
  std::atomic<bool> cancelled_{false};
};

/// $XDG_CACHE_HOME/espalier/images, else below ~/.cache.
std::filesystem::path default_image_cache();

}  // namespace espalier::envs::image
