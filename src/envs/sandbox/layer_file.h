// One layer in one file: a zstd frame with the pack, one with the index, and where that begins.
//
// The pack carries a checksum of its own, the index is named by the file; so damage is found while
// a layer is read, without a second pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "envs/sandbox/layer_index.h"
#include "envs/sandbox/staged_file.h"

namespace espalier::envs::sandbox {

struct LayerWritten {
  StoredLayerPtr layer;
  std::optional<StagedFile> file;  // none: the layer is empty
};

/// Reads a pack from a pipe to its end: compressed and hashed as it comes. `directory` exists.
/// Errors: PackCutShort; StoreError when the disk refuses.
LayerWritten write_layer_file(int pack_fd, const std::filesystem::path& directory);

/// The index of the layer of this name. Errors: StoreError naming the file when it is missing or
/// damaged.
StoredLayerPtr read_layer_index(const std::filesystem::path& path, const std::string& id);

/// Writes the pack into a pipe. False when the other end closed it. Errors: StoreError naming the
/// file when it is damaged: the pack that came then lacks its end mark.
bool read_layer_pack(const std::filesystem::path& path, int pack_fd);

/// Reads everything and compares it with the index and the name. Errors: StoreError naming the
/// file.
void verify_layer_file(const std::filesystem::path& path, const std::string& id);

}  // namespace espalier::envs::sandbox
