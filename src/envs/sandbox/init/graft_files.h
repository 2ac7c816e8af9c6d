// The descriptors of a program that is rebuilt.
#pragma once

#include "envs/sandbox/init/graft.h"

namespace espalier::envs::init {

/// Says of the program's descriptors which are its parent's: they share an offset. Those that it
/// shares with another ancestor alone cannot be had: false. `who` is how the refusal calls it.
struct Ancestor {
  pid_t pid;
  const Inventory* inventory;
};
bool relate_files(pid_t program, const char* who, const Ancestor* ancestors, size_t count,
                  Inventory* inventory, Refusal* why);

/// Above all descriptors that a program and its parent have.
int spare_descriptor(const Inventory& parent, const Inventory& program);

/// Calls by which a clone of the program's parent gets the program's descriptors in the place of
/// its own.
void replace_files(Script* script, const Inventory& parent, const Inventory& program);

/// Calls by which a held program closes what it has open for writing, and opens it again.
void close_writers(Script* script, const Inventory& inventory);
void reopen_writers(Script* script, const Inventory& inventory);

}  // namespace espalier::envs::init
