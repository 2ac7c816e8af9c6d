// Images as files describe them: OCI image layouts and `docker save` archives, unpacked into a
// directory.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "envs/image/image.h"

namespace espalier::envs::image {

struct LayoutLayer {
  std::string path;     // below the layout's directory
  std::string blob;     // SHA-256 in hex of the file; empty: not claimed
  std::string diff_id;  // of its uncompressed content
};

struct Layout {
  std::string config_digest;  // SHA-256 in hex of the configuration: Docker's image id
  ImageConfig config;
  std::vector<LayoutLayer> layers;  // bottom first
};

/// True when the directory is an OCI layout or an unpacked `docker save` archive.
bool is_layout(const std::filesystem::path& directory);

/// Picks this machine's architecture where there are several. Errors: TaskError naming the file and
/// what is wrong with it: a digest that does not match, an unknown kind, several images.
Layout read_layout(const std::filesystem::path& directory, const std::string& source);

/// Opens a file of the layout, staying below its directory. Errors: TaskError.
sandbox::Fd open_below(const std::filesystem::path& directory, const std::string& path,
                       const std::string& source);

/// This machine's architecture, as images name it: "amd64", "arm64".
std::string machine_architecture();

}  // namespace espalier::envs::image
