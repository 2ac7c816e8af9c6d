// The extended attributes a pack carries: user.*, file capabilities and POSIX access lists.
// Overlay's own marks are not among them: a pack has flags for what they mean.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace espalier::envs::init {

/// The attributes of an open file as records (wire.h) sorted by name; ids in them are lowered by
/// uid_base. Bytes written to out; -1 with errno: E2BIG when out is too small.
ssize_t get_xattrs(int fd, uint32_t uid_base, char* out, size_t capacity);

/// Sets the records' attributes; with `replace` those that are not among them are removed. False
/// with errno: EINVAL for damaged records.
bool set_xattrs(int fd, char* records, size_t bytes, uint32_t uid_base, bool replace);

}  // namespace espalier::envs::init
