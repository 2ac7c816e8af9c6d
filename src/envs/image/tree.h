// Directory trees of the host, as images.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>

#include "envs/image/layer_writer.h"

namespace espalier::envs::image {

/// SHA-256 in hex over the names, types, modes, owners, sizes, times and link targets below the
/// directory (times and contents of directories themselves left out). Equal on another machine that
/// has a faithful copy. Errors: TaskError, Cancelled.
std::string tree_signature(const std::filesystem::path& directory,
                           const std::atomic<bool>& cancelled);

/// SHA-256 in hex over names, modes and contents. Errors: TaskError, Cancelled.
std::string tree_content_hash(const std::filesystem::path& directory,
                              const std::atomic<bool>& cancelled);

/// Copies what lies below `from` on its own file system into a layer. Device nodes and sockets are
/// left out. Errors: TaskError, StoreError, Cancelled.
void copy_tree(const std::filesystem::path& from, const std::filesystem::path& to,
               const LayerFormat& format, const std::string& source,
               const std::atomic<bool>& cancelled);

}  // namespace espalier::envs::image
