// The threads of a program that is rebuilt, and its POSIX timers, which may signal a single one.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "envs/sandbox/init/inspect.h"
#include "envs/sandbox/init/kernel_state.h"
#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {

/// A thread held by this process.
struct Thread {
  pid_t outer_id;  // as this process sees it
  pid_t inner_id;  // as its own init sees it
  char command[16];
  uint64_t cpus[16];
  bool acts;  // its state is saved: it makes calls for us
  StoppedState state;
  char* xstate;  // by malloc
  uint64_t xstate_bytes;
  KernelState kernel;
  uint64_t clear_id;  // set_tid_address
};

/// Of one process; the first is that which has its pid. Zeroed at first.
struct Threads {
  static constexpr size_t kMax = 32;
  Thread all[kMax];
  size_t count;
  bool stopped;  // as by Ctrl-Z
};

/// Stops all threads of a process. False, with the refusal set, when they cannot be; those held by
/// then are counted. `who` is how the refusal calls the process.
bool hold_threads(const Base& base, pid_t pid, const char* who, Threads* threads, Refusal* why);
/// None of them has ended or a signal to take. Notes their names.
bool check_threads(const Base& base, pid_t pid, const char* who, Threads* threads, Refusal* why);
/// Saves what they were doing; from here on they make calls.
bool save_threads(Threads* threads);
/// Answers to what only they can be asked. `area` lies in their memory.
bool ask_threads(Threads* threads, uint64_t area);
/// Lets them go on.
void release_threads(const Threads& threads);
void free_threads(Threads* threads);

/// A process in the place of another, held: its first thread makes the others.
struct ThreadsTarget {
  pid_t ids[Threads::kMax];  // as this process sees them
  size_t count;
  uint64_t area;
};
/// Registers for scripts: no stack of the program's is used.
user_regs_struct script_registers(const Thread& thread, uint64_t area);
bool clone_threads(const Threads& threads, ThreadsTarget* target, Failure* failure);
/// What the kernel keeps for each.
bool settle_threads(const Threads& threads, const ThreadsTarget& target, Failure* failure);
/// They run, or are stopped as the original's; nothing lies at the area any more.
bool start_threads(const Threads& threads, const ThreadsTarget& target, uint64_t gadget);
void kill_threads(const ThreadsTarget& target);

/// A timer of timer_create(2).
struct PosixTimer {
  int32_t id;
  int32_t clock, signal, notify;
  uint64_t value;
  size_t thread;      // notify is SIGEV_THREAD_ID: of Threads
  uint64_t times[4];  // struct itimerspec
};
struct PosixTimers {
  static constexpr size_t kMax = 16;
  PosixTimer all[kMax];
  size_t count;
};
bool read_timers(const Base& base, pid_t pid, const char* who, const Threads& threads,
                 PosixTimers* timers, Refusal* why);
/// Asks for what is left of them.
bool ask_timers(pid_t pid, const user_regs_struct& registers, uint64_t area, PosixTimers* timers);
/// In a process without timers.
bool make_timers(const PosixTimers& timers, const Threads& threads, const ThreadsTarget& target,
                 Failure* failure);

}  // namespace espalier::envs::init
