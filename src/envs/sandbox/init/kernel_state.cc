#include "envs/sandbox/init/kernel_state.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>

namespace espalier::envs::init {
namespace {

constexpr int kTimers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

// Not in the C library's headers of every distribution.
constexpr auto kGetRseq = static_cast<__ptrace_request>(0x420f);
struct RseqConfiguration {
  uint64_t address;
  uint32_t bytes, signature, flags, padding;
};

}  // namespace

KernelQuestions::KernelQuestions(Script* script) {
  stack_ = script->data(nullptr, sizeof KernelState::alternative_stack);
  robust_ = script->data(nullptr, 16);
  timers_ = script->data(nullptr, sizeof KernelState::timers);
  script->call(SYS_sigaltstack, 0, stack_);
  script->call_flagged(kMayFail, SYS_get_robust_list, 0, robust_, robust_ + 8);
  for (uint64_t i = 0; i < 3; ++i)
    script->call(SYS_getitimer, uint64_t(kTimers[i]), timers_ + i * 32);
  dumpable_ = script->call(SYS_prctl, PR_GET_DUMPABLE);
}

void KernelQuestions::answers(const Script& script, pid_t pid, KernelState* state) const {
  memcpy(state->alternative_stack, script.read_back(stack_), sizeof state->alternative_stack);
  memcpy(&state->robust_list, script.read_back(robust_), 16);
  memcpy(state->timers, script.read_back(timers_), sizeof state->timers);
  state->dumpable = int32_t(script.result(dumpable_));
  RseqConfiguration rseq{};
  if (ptrace(kGetRseq, pid, sizeof rseq, &rseq) <= 0) return;
  state->rseq = rseq.address;
  state->rseq_bytes = rseq.bytes;
  state->rseq_signature = rseq.signature;
}

void restore_kernel_state(Script* script, const KernelState& state) {
  if (state.rseq)
    script->call_flagged(kMayFail, SYS_rseq, state.rseq, state.rseq_bytes, 0, state.rseq_signature);
  if (state.robust_list)
    script->call_flagged(kMayFail, SYS_set_robust_list, state.robust_list, state.robust_list_bytes);
  script->call(SYS_sigaltstack,
               script->data(state.alternative_stack, sizeof state.alternative_stack), 0);
  for (uint64_t i = 0; i < 3; ++i)
    if (state.timers[i][2] || state.timers[i][3])
      script->call(SYS_setitimer, i, script->data(state.timers[i], sizeof state.timers[i]), 0);
}

}  // namespace espalier::envs::init
