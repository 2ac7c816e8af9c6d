// Writing and reading packs (wire.h) below a directory.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "envs/sandbox/init/sys.h"

namespace espalier::envs::init {

/// How ownership and overlay marks of a pack are expressed in the directory at hand.
struct PackTarget {
  int dir_fd = -1;
  uint32_t uid_base = 0;   // added to the pack's uid and gid
  bool keep_owner = true;  // false: everything belongs to the caller
  int skeleton_fd =
      -1;  // whiteouts of what it does not have are not made; pack() marks what it has
  const char* opaque_xattr =
      nullptr;  // "trusted.overlay.opaque" or "user.overlay.opaque"; null: none
};

/// Makes every entry of the pack that `fd` delivers until its end. Existing files are replaced,
/// existing directories kept; no symlink is followed.
bool unpack(int fd, const PackTarget& target, Failure* failure);

/// Writes the whole tree below target.dir_fd, names sorted, to fd.
bool pack(int fd, const PackTarget& target, Failure* failure);

}  // namespace espalier::envs::init
