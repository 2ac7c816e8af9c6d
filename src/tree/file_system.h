// Where journal and store write: the few operations that must be right for what is acknowledged to
// survive a crash. Behind an interface, so that tests can let each of them fail in turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

namespace espalier::tree {

/// Errors of every call below: StoreError with the operation, the path, the reason and, when the
/// disk is full, what to do.

/// A file open for appending. Thread contract: one thread appends; another may sync meanwhile.
class OutputFile {
 public:
  virtual ~OutputFile() = default;
  virtual void append(std::string_view bytes) = 0;
  /// What was appended before the call is on disk when it returns.
  virtual void sync() = 0;
};

/// Thread contract: any thread.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  /// Opens or creates the file and cuts it to `keep_bytes`.
  virtual std::unique_ptr<OutputFile> open(const std::filesystem::path& file,
                                           uint64_t keep_bytes) = 0;
  virtual void rename(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  /// Names made or removed in the directory are on disk when it returns.
  virtual void sync_directory(const std::filesystem::path& directory) = 0;
};

/// The machine's own.
FileSystem& posix_files();

/// The file has this content, durably, or what it had before: a partial file beside it, sync,
/// rename, sync of the directory.
void replace_durably(FileSystem& files, const std::filesystem::path& file,
                     std::string_view content);

}  // namespace espalier::tree
