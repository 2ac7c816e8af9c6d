// Writes the members of an archive below one directory, and nothing outside of it.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "envs/sandbox/fd.h"

namespace espalier::envs::image {

/// How a layer's files lie on disk, so that overlay shows them rightly inside a sandbox.
struct LayerFormat {
  bool keep_owners = false;  // else everything belongs to this process's user
  uint32_t uid_base = 0;     // added to owners that are kept

  const char* opaque_xattr() const {
    return keep_owners ? "trusted.overlay.opaque" : "user.overlay.opaque";
  }
};

struct LayerWriterOptions {
  LayerFormat format;
  std::string source;         // of the members, for messages
  bool whiteouts = false;     // ".wh." names mean what they mean in a layer
  bool skip_devices = false;  // else they are refused
};

/// Thread contract: one owner. Errors of all methods: TaskError for a member that is refused (its
/// name or a hard link's target is absolute or holds "..", it lies behind a symbolic link, it is a
/// device node), StoreError where the disk is at fault. Set-user-id bits are kept: no_new_privs
/// takes their meaning, and the cache is closed to other users.
class LayerWriter {
 public:
  LayerWriter(const std::filesystem::path& directory, LayerWriterOptions options);

  /// Writes the member that `in` is at.
  void add(archive* in, archive_entry* entry);
  /// Sets what directories get last: modes and times. No member may follow.
  void finish();

 private:
  struct Member;

  Member member_of(archive_entry* entry) const;
  int parent_of(const Member& member);
  void add_directory(int parent, const Member& member, archive_entry* entry);
  void add_file(int parent, const Member& member, archive* in, archive_entry* entry);
  void add_hard_link(int parent, const Member& member, const std::string& target);
  void add_special(int parent, const Member& member, archive_entry* entry);
  void add_whiteout(int parent, const Member& member);
  void make_directory(int parent, const Member& member, const std::string& name);
  void make_opaque(int parent, const std::string& name, const Member& member);
  void make_way(int parent, const Member& member);
  void set_attributes(int parent, const Member& member, archive_entry* entry);
  void own(int parent, const std::string& name, int64_t uid, int64_t gid, const Member& member);
  [[noreturn]] void refuse(const Member& member, const std::string& why) const;
  [[noreturn]] void fail(const Member& member, const char* operation) const;

  struct DirectoryAttributes {
    mode_t mode;
    timespec modified;
  };
  LayerWriterOptions options_;
  std::filesystem::path directory_;
  sandbox::Fd root_, parent_;
  std::vector<std::string> parent_parts_;
  std::map<std::string, DirectoryAttributes> directories_;
};

/// The components of a member's name: "./a//b/" is a, b. Errors: std::invalid_argument with what is
/// wrong with it.
std::vector<std::string> member_parts(const std::string& name);

}  // namespace espalier::envs::image
