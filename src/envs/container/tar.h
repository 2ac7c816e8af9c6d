// The tar archives that files travel in, to a container and from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace espalier::envs::container {

/// Room for what precedes a file's content in an archive.
inline constexpr size_t kTarHeaderBytes = 64 * 1024;

/// One file, owned by root.
std::string tar_of_file(const std::string& name, const std::string& content, unsigned mode);

/// The directory `from` (empty: an empty one) under the name `prefix` (empty: its entries alone),
/// modes kept, everything owned by uid and gid. Errors: TaskError.
std::string tar_of_tree(const std::filesystem::path& from, const std::string& prefix, uint32_t uid,
                        uint32_t gid);

struct TarFile {
  bool regular = false;
  std::string content;  // of a regular file, at most max_bytes
  std::string link;     // target of a symlink
};
/// The first entry; the archive may be cut off behind max_bytes of content. Errors: SandboxError
/// when it is no archive.
TarFile first_of_tar(const std::string& tar, size_t max_bytes);

}  // namespace espalier::envs::container
