// The memory of a program that is rebuilt: what lies where, and which of it is the program's own.
#pragma once

#include <linux/prctl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "envs/sandbox/init/inspect.h"
#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {

/// A mapping.
struct Region {
  uint64_t start, end;
  uint64_t offset;        // in the file
  char* path;             // nullptr: anonymous
  uint32_t protection;    // as mmap(2)
  uint32_t flags;         // as mmap(2)
  uint32_t advice_count;  // as madvise(2)
  uint32_t advice[3];
  bool filled;  // has pages of its own
};

/// Pages that differ from what their mapping maps.
struct PageRun {
  uint64_t address, bytes;
  bool anonymous;  // zero unless written
};

/// The pages by which the kernel tells the time: each process has them somewhere else.
struct KernelPages {
  static constexpr size_t kMax = 4;
  uint64_t start[kMax], bytes[kMax];
  size_t count;
  uint64_t vdso;
};

/// Zeroed at first; free_memory_map() in the end.
struct MemoryMap {
  Region* regions;
  size_t region_count, region_room;
  PageRun* runs;
  size_t run_count, run_room;
  uint64_t run_bytes;
  KernelPages kernel;
  prctl_mm_map bounds;  // without brk, which the process is asked for
  char auxiliary[1024];
  char program[PATH_MAX];
};

/// Mappings and the kernel's pages. `who` is how a refusal calls the process, which is held.
bool read_regions(const Base& base, pid_t pid, const char* who, MemoryMap* map, Refusal* why);
/// The rest, once nothing of it changes any more.
bool read_contents(const Base& base, pid_t pid, const char* who, MemoryMap* map, Refusal* why);
void free_memory_map(MemoryMap* map);
bool is_free(const MemoryMap& map, uint64_t start, uint64_t bytes);

/// A process that is being given a program's memory, and where to find that.
struct MemoryTarget {
  pid_t pid;                   // held; keeps nothing but `area`, for scripts
  user_regs_struct registers;  // for scripts
  uint64_t area;
  const KernelPages* kernel_pages;  // its own, until now
  uint64_t spare;                   // an address with room for them, free in both
  int spare_fd;                     // a descriptor it does not have, nor the one below
};

/// What takes the place of the target's memory: mappings, then contents from `source`, then what
/// protects them. False on failure, with the call that failed in it.
bool map_regions(const MemoryMap& map, const MemoryTarget& target, Failure* failure);
bool copy_contents(const Base& base, const MemoryMap& map, pid_t source, pid_t target,
                   Failure* failure);
bool finish_regions(const MemoryMap& map, const MemoryTarget& target, Failure* failure);

}  // namespace espalier::envs::init
