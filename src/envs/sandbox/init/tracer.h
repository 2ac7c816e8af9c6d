// System calls made by another process on our behalf: it is held by ptrace and runs lists of calls,
// kept in a page of its own, instead of its program.
#pragma once

#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "envs/sandbox/init/sys.h"

namespace espalier::envs::init {

enum CallFlags : uint64_t {
  kMayFail = 1,     // the list goes on after an error
  kKeepResult = 2,  // the result is argument 0 of later calls with …
  kUseResult = 4,   // … this flag
};

/// One call of a list, laid out as the code in tracer.cc reads it.
struct Call {
  uint64_t number;
  uint64_t arguments[6];
  int64_t result;
  uint64_t flags;
};

/// What a stopped process was doing.
struct StoppedState {
  user_regs_struct registers;
  uint64_t signal_mask;
};

/// Attaches and stops it, at most in `timeout`; its seccomp filter does not apply while it is held.
bool attach(pid_t pid, Failure* failure);
/// Waits for its next stop. False when it has ended.
bool wait_for_stop(pid_t pid);
bool save_state(pid_t pid, StoppedState* state);
/// Blocks all signals, that none ends or interrupts a list.
bool block_signals(pid_t pid);
/// Registers and signal mask as they were; an interrupted system call is made again.
bool restore_state(pid_t pid, const StoppedState& state);
/// Ends a stop by a signal, as a terminal's suspend character sends it, of one that was attached in
/// it and does not block SIGCONT; to its parent it goes on.
bool end_stop(pid_t pid);
/// With a signal it goes on by taking that; its last stop was at the end of a call_at() or
/// end_stop().
bool detach(pid_t pid, int signal = 0);
/// The new process of a clone that `pid` made; it is held as well.
pid_t take_child(pid_t pid);

bool read_memory(pid_t pid, uint64_t address, void* out, size_t size);
bool write_memory(pid_t pid, uint64_t address, const void* data, size_t size);

/// A single call by the instruction at `gadget`. Returns its result.
int64_t call_at(pid_t pid, const user_regs_struct& registers, uint64_t gadget, const Call& call);
/// Where in the process a system call instruction lies; 0: not found.
uint64_t find_gadget(pid_t pid, uint64_t vdso);

/// Maps the area that scripts lie in, Script::kAreaBytes, into the process: at `wanted`, where
/// nothing is mapped, or where there is room (0). Returns its address, 0 on failure.
uint64_t map_area(pid_t pid, const user_regs_struct& registers, uint64_t gadget, uint64_t wanted);
bool unmap_area(pid_t pid, const user_regs_struct& registers, uint64_t gadget, uint64_t area);

/// Brings a process (0: the calling one) to a processor; -1: leaves it where it is. A hand-over
/// between two processors costs more than all that is done at one of them, and so does the way of a
/// running process to another.
inline void bring_to(int cpu, pid_t pid) {
  if (cpu < 0) return;
  cpu_set_t now, one;
  CPU_ZERO(&one);
  CPU_SET(size_t(cpu), &one);
  if (sched_getaffinity(pid, sizeof now, &now) || !CPU_EQUAL(&now, &one))
    sched_setaffinity(pid, sizeof one, &one);
}

/// A list of calls and the data they point to, built here and run there.
class Script {
 public:
  static constexpr size_t kMaxCalls = 384;
  static constexpr size_t kDataBytes = 24 * 1024;
  static constexpr size_t kAreaBytes = 64 * 1024;  // of the process's memory, readable, executable

  /// `area`: kAreaBytes of the process's memory. The code is put there by prepare().
  explicit Script(uint64_t area) : area_(area) { clear(); }
  static bool prepare(pid_t pid, uint64_t area);

  void clear();
  bool is_empty() const { return count_ == 0; }
  bool has_room(size_t calls, size_t bytes) const {
    return count_ + calls <= kMaxCalls && used_ + bytes <= kDataBytes;
  }
  /// Addresses in the process. 0 when there is no room: run() then fails.
  uint64_t text(const char* text);
  uint64_t data(const void* data, size_t size);
  /// Index of the call, for result(). Arguments that are left out are 0.
  size_t call(uint64_t number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
              uint64_t e = 0, uint64_t f = 0);
  size_t call_flagged(uint64_t flags, uint64_t number, uint64_t a = 0, uint64_t b = 0,
                      uint64_t c = 0, uint64_t d = 0);

  /// Runs the list in the process, whose registers are otherwise `registers`. False when it ended,
  /// or a call failed that may not: failed_call() and errno then say which and why.
  bool run(pid_t pid, const user_regs_struct& registers);
  /// The same for a list that makes a process: it is returned (held), -1 on failure.
  pid_t run_clone(pid_t pid, const user_regs_struct& registers);

  int64_t result(size_t index) const { return calls_[index].result; }
  uint64_t failed_call() const { return failed_; }
  /// What the process wrote to a data() address.
  const void* read_back(uint64_t address) const { return data_ + (address - area_ - kDataOffset); }

 private:
  static constexpr size_t kCallsOffset = 256;
  static constexpr size_t kDataOffset = 32 * 1024;
  bool start(pid_t pid, const user_regs_struct& registers);
  bool finish(pid_t pid);

  uint64_t area_;
  size_t count_ = 0;
  size_t used_ = 0;
  bool full_ = false;
  uint64_t failed_ = 0;
  Call calls_[kMaxCalls];
  alignas(16) char data_[kDataBytes];
};

}  // namespace espalier::envs::init
