// Packs (wire.h) on the trainer's side: made from a directory or piece by piece, and read back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace espalier::envs::sandbox {

/// One file, directory, symlink or whiteout of a layer.
struct PackItem {
  std::string path;   // relative; "." is the layer's own root
  uint32_t mode = 0;  // as st_mode
  uint32_t uid = 0;   // inside the sandbox
  uint32_t gid = 0;
  int64_t mtime_s = 0;
  uint32_t mtime_ns = 0;
  bool opaque = false;
  std::string content;  // of a file; target of a symlink
};

void append_item(std::string* pack, const PackItem& item);

/// The files of `directory` as a pack below `prefix` ("" or "app"), names sorted, modes kept, owned
/// by uid. Files without read permission are read all the same where they are ours. Errors:
/// TaskError.
std::string pack_directory(const std::filesystem::path& directory, const std::string& prefix,
                           uint32_t uid);

/// Changes whenever a file below the directory changes (names, sizes, modes, inodes, change times).
/// Errors: TaskError when it is not a directory.
std::string directory_signature(const std::filesystem::path& directory);

}  // namespace espalier::envs::sandbox
