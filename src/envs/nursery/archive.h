// Tar archives with nothing of this machine in them: the same members give the same bytes
// everywhere.
#pragma once

#include <string>
#include <vector>

namespace espalier::envs::nursery {

struct ArchiveMember {
  std::string name;
  std::string content;
};

/// An uncompressed ustar archive of regular files, mode 0644, owner 0, one fixed time.
/// Errors: TaskError with libarchive's reason.
std::string make_tar(const std::vector<ArchiveMember>& members);

}  // namespace espalier::envs::nursery
