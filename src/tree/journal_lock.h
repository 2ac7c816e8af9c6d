// One writer a journal.
#pragma once

#include <filesystem>

namespace espalier::tree {

/// An exclusive claim of this process on a journal, gone with the process or the object. Errors:
/// StoreError when another process has it.
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
