// What /proc says of a process, as text.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {

/// A file of /proc/PID, NUL-terminated; nullptr: not there. Valid until the next call.
const char* read_proc(const Base& base, pid_t pid, const char* name);
/// The target of a link of /proc/PID, "" when it cannot be read. Its length, -1 on error.
ssize_t read_link(const Base& base, pid_t pid, const char* name, char* out, size_t size);

/// The value of a line "NAME:\tvalue"; nullptr: there is none.
const char* field(const char* text, const char* name);
/// The same as a number, 0 when there is none.
uint64_t number(const char* text, const char* name, int radix);
/// The last number of a line of ids: that seen in the innermost namespace. 0 when there is none.
pid_t innermost_id(const char* text, const char* name);
bool ends_with(const char* text, const char* end);

}  // namespace espalier::envs::init
