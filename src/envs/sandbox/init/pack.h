// Writing and reading packs (wire.h) below a directory.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "envs/sandbox/init/sys.h"

namespace espalier::envs::init {

/// How ownership and overlay marks of a pack are expressed in the directory at hand.
struct PackTarget {
  int dir_fd = -1;
  uint32_t uid_base = 0;          // added to the pack's uid and gid
  bool keep_owner = true;         // false: everything belongs to the caller
  const int* base_fds = nullptr;  // what lies below all layers, topmost first
  size_t base_count = 0;          // 0: the directory is not a layer
  bool exact = false;             // whiteouts are made whether the base has something there or not
  bool ended = false;             // a pack without its end mark is refused
  const char* opaque_xattr =
      nullptr;  // "trusted.overlay.opaque" or "user.overlay.opaque"; null: none

  uint32_t id_shift() const { return keep_owner ? uid_base : 0; }
  /// Whether the base has the path, and as what.
  bool base_has(const char* path, struct stat* found) const;
};

/// Makes every entry of the packs that `fd` delivers, one after another, until its end (unpack.cc).
/// Existing files are replaced; existing directories are kept, emptied where the entry is opaque,
/// and take the entry's attributes: packs of layers, lowest first, make one layer that shows what
/// they show together. No symlink is followed, no ".." accepted.
bool unpack(int fd, const PackTarget& target, Failure* failure);

/// Writes the tree below target.dir_fd, names sorted, and the end mark to fd (pack.cc). Sockets
/// and devices are left out.
bool pack(int fd, const PackTarget& target, Failure* failure);

}  // namespace espalier::envs::init
