// Files that appear whole or not at all: written under a name of their own, synced, then renamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "envs/sandbox/fd.h"

namespace espalier::envs::sandbox {

inline constexpr std::string_view kStagedPrefix = ".new-";  // left over by a killed process

/// A file on its way; removed unless it gets its name. Thread contract: one owner. Errors of all:
/// StoreError with path and reason.
class StagedFile {
 public:
  explicit StagedFile(const std::filesystem::path& directory);
  ~StagedFile();
  StagedFile(StagedFile&& other) noexcept = default;
  StagedFile& operator=(StagedFile&&) = delete;

  void append(std::string_view bytes);
  uint64_t bytes() const { return bytes_; }
  void sync();
  void rename_to(const std::filesystem::path& path);

 private:
  std::filesystem::path path_;
  Fd fd_;
  uint64_t bytes_ = 0;
  uint64_t flushed_ = 0;  // handed to the disk already
};

/// Makes what was renamed into a directory last. Errors: StoreError.
void sync_directory(const std::filesystem::path& directory);

}  // namespace espalier::envs::sandbox
