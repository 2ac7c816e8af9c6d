// Programs that run below a session when it is frozen, each the only child of the one before, are
// rebuilt below its copies: a clone cannot be given another parent, but a child of the copied shell
// can be given a program's memory, registers and descriptors. So pid, parent, process group,
// session, terminal and exit status are right by themselves. Costs the copying of what memory the
// program has of its own.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/types.h>

#include "envs/sandbox/init/graft_memory.h"
#include "envs/sandbox/init/graft_thread.h"
#include "envs/sandbox/init/inspect.h"
#include "envs/sandbox/init/kernel_state.h"
#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {

struct SignalAction {
  uint64_t handler, flags, restorer, mask;
};

/// What prctl(2) says of a process and can be told again.
struct Setting {
  int get, set;
  bool by_address;
};
inline constexpr Setting kSettings[] = {{PR_GET_PDEATHSIG, PR_SET_PDEATHSIG, true},
                                        {PR_GET_CHILD_SUBREAPER, PR_SET_CHILD_SUBREAPER, true},
                                        {PR_GET_TIMERSLACK, PR_SET_TIMERSLACK, false},
                                        {PR_GET_THP_DISABLE, PR_SET_THP_DISABLE, false}};

/// A program held by this process.
struct Program {
  static constexpr int kSignals = 64;
  static constexpr int kLimits = 16;

  pid_t outer_pid = 0;  // as this process sees it
  pid_t inner_pid = 0;  // as its own init sees it
  pid_t group = 0;      // its process group, seen likewise
  bool foreground = false;
  bool ended = false;
  bool writers_closed = false;
  char name[64] = {0};  // as refusals call it
  uint32_t umask = 0;
  int nice = 0;
  uint64_t limits[kLimits][2];
  uint64_t gadget = 0;
  bool has_area = false;
  SignalAction actions[kSignals];
  uint64_t settings[4];  // as kSettings
  Threads threads{};
  PosixTimers timers{};
  Inventory inventory;
  MemoryMap memory{};

  const user_regs_struct& registers() const { return threads.all[0].state.registers; }
};

/// The programs below one session.
struct Programs {
  Program* all[Lineage::kMax] = {nullptr};
  size_t count = 0;
  uint64_t area = 0;   // where there is room for scripts in the session and in all of them
  uint64_t spare = 0;  // … and for the kernel's pages
  KernelPages session_pages{};
};

struct Frozen;

/// Holds the programs of a held session and looks at all they consist of. False, with the refusal
/// set, where one cannot be rebuilt; release_programs() is to be called in any case.
bool hold_programs(const Base& base, const Frozen& frozen, const Lineage& lineage,
                   Programs* programs, Refusal* why);
/// They close what they have open for writing, so that the upper can be made read-only.
bool close_writers(Programs* programs, Refusal* why);
/// Lets them go on.
void release_programs(Programs* programs);
/// Frees them. Held ones are killed, unless they have ended.
void forget_programs(Programs* programs);
void program_ended(Programs* programs, pid_t outer_pid);

/// Programs rebuilt below one copy, held.
struct Rebuilt {
  ThreadsTarget all[Lineage::kMax];
  size_t count = 0;
};
/// Below `copy`, which is held and still has the privileges that brought it here. On failure those
/// made by then are left to kill_programs().
bool rebuild_programs(const Base& base, const Frozen& frozen, pid_t copy, Rebuilt* rebuilt,
                      Failure* failure);
/// Lets them run. `copy` is still held.
bool start_programs(const Frozen& frozen, pid_t copy, const Rebuilt& rebuilt, Failure* failure);
void kill_programs(const Rebuilt& rebuilt);

}  // namespace espalier::envs::init
