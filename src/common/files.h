// Files written whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace espalier::common {

/// Writes temp, fsync, rename, fsync of the directory. Errors: StoreError with path and reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Whole content. Errors: StoreError with path and reason.
std::string read_file(const std::filesystem::path& path);

/// A file that only grows; append() hands the bytes over in one write, so that a reader (or a crash
/// of this process) sees a record whole or not at all. Thread contract: one owner. Errors:
/// StoreError with path and reason.
class AppendFile {
 public:
  /// Creates the file where there is none.
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view record);
  void sync();  // fdatasync
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_;
};

/// Where a TempDir lies: in memory where the system has a place for that (/dev/shm), for many small
/// files of which none need survive.
enum class TempPlace { disk, memory };

/// A directory of its own under the system's temporary directory, removed with everything in it
/// (also files without permissions) when the object goes, or, when the process was killed, by a
/// later sweep_temp_dirs(). Holds one file descriptor.
class TempDir {
 public:
  explicit TempDir(std::string_view prefix = "espalier", TempPlace place = TempPlace::disk);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int lock_ = -1;  // the directory, locked: its owner lives
};

/// Removes a file or a directory with everything in it, also what has no permissions; symbolic
/// links are not followed. What cannot be removed stays.
void remove_tree(const std::filesystem::path& path);

/// The TempDirs of processes of this user that are gone; with `remove`, removes them.
std::vector<std::filesystem::path> sweep_temp_dirs(bool remove);

}  // namespace espalier::common
