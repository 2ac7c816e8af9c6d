// What it takes for a file's name and content to survive a power loss.
#pragma once

#include <filesystem>

namespace espalier::tree {

/// Names made or removed in the directory are on disk when it returns. Errors: StoreError.
void sync_directory(const std::filesystem::path& directory);

/// Gives a complete file (`partial`) its name: fsync, rename, fsync of the directory. Errors:
/// StoreError.
void replace_durably(const std::filesystem::path& partial, const std::filesystem::path& file);

}  // namespace espalier::tree
