// What the kernel keeps for a process that a copy of it does not get.
#pragma once

#include <stdint.h>

#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {

struct KernelState {
  uint64_t alternative_stack[3];
  uint64_t robust_list, robust_list_bytes;
  uint64_t timers[3][4];
  uint64_t rseq;
  uint32_t rseq_bytes, rseq_signature;
  int32_t dumpable;
};

/// Asks the process itself, in a script of the caller's.
class KernelQuestions {
 public:
  explicit KernelQuestions(Script* script);
  /// The script has run in `pid`.
  void answers(const Script& script, pid_t pid, KernelState* state) const;

 private:
  uint64_t stack_, robust_, timers_;
  size_t dumpable_;
};

/// Calls by which a process gets all that, but for dumpable.
void restore_kernel_state(Script* script, const KernelState& state);

}  // namespace espalier::envs::init
