// One journal file open for appending. All system calls of the journal's writer are here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace espalier::tree {

/// Thread contract: one owner. Errors of every call: StoreError with path and reason.
class AppendFile {
 public:
  /// Opens or creates the file and cuts it to `keep_bytes`.
  AppendFile(const std::filesystem::path& file, uint64_t keep_bytes);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  /// Data and length are on disk when it returns.
  void sync();
  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

/// An exclusive claim of this process on a journal, gone with the process or the object.
class JournalLock {
 public:
  explicit JournalLock(const std::filesystem::path& directory);
  ~JournalLock();
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace espalier::tree
