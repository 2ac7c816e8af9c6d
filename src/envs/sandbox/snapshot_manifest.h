// A durable state without the bytes of its files, as a small JSON file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "envs/environment.h"

namespace espalier::envs::sandbox {

struct SnapshotManifest {
  EnvironmentSpec spec;  // files is empty: they are in the layers
  std::string base;      // identity of the image that lies below the layers
  std::string shell;     // restore text
  int last_exit_code = 0;
  std::string state;                // digest of the files (layer_index.h)
  std::vector<std::string> layers;  // lowest first
};

/// What the state is called: the SHA-256 of all of the manifest but the list of layers.
SnapshotId snapshot_id(const SnapshotManifest& manifest);

std::string encode_manifest(const SnapshotManifest& manifest);
/// Errors: StoreError naming the file when it is missing, damaged or of another version.
SnapshotManifest read_manifest(const std::filesystem::path& path, const SnapshotId& id);

}  // namespace espalier::envs::sandbox
