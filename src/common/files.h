// Files written whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace espalier::common {

/// Writes temp, fsync, rename, fsync of the directory. Errors: StoreError with path and reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Whole content. Errors: StoreError with path and reason.
std::string read_file(const std::filesystem::path& path);

/// A directory of its own under the system's temporary directory, removed with everything in it
/// (also files without permissions) when the object goes.
class TempDir {
 public:
  explicit TempDir(std::string_view prefix = "espalier");
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace espalier::common
