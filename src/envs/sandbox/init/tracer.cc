#include "envs/sandbox/init/tracer.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// Runs rbp calls from rbx on; r12 is the kept result. Uses no stack, and neither does a clone made
// in it: both processes may run it at the same time.
asm(R"(
.pushsection .rodata
espalier_calls_begin:
1: mov (%rbx), %rax
   mov 8(%rbx), %rdi
   mov 16(%rbx), %rsi
   mov 24(%rbx), %rdx
   mov 32(%rbx), %r10
   mov 40(%rbx), %r8
   mov 48(%rbx), %r9
   testb $4, 64(%rbx)
   jz 2f
   mov %r12, %rdi
2: syscall
   mov %rax, 56(%rbx)
   testb $2, 64(%rbx)
   jz 3f
   mov %rax, %r12
3: cmp $-4096, %rax
   jbe 4f
   testb $1, 64(%rbx)
   jz 5f
4: add $72, %rbx
   dec %rbp
   jnz 1b
5: int3
espalier_calls_end:
.popsection
)");
extern "C" {
extern const char espalier_calls_begin[];
extern const char espalier_calls_end[];
}

namespace espalier::envs::init {
namespace {

constexpr uint64_t kAllButTrap = ~(uint64_t{1} << (SIGTRAP - 1));
constexpr size_t kVdsoBytes = 8192;

int event_of(int status) { return status >> 16; }

bool wait_status(pid_t pid, int* status) {
  pid_t got;
  do {
    got = waitpid(pid, status, __WALL);
  } while (got < 0 && errno == EINTR);
  if (got == pid && WIFSTOPPED(*status)) return true;
  if (got == pid) errno = ESRCH;
  return false;
}

/// Until the list's int3, or the step's end.
bool wait_for_trap(pid_t pid) {
  int status;
  while (wait_status(pid, &status)) {
    if (WSTOPSIG(status) == SIGTRAP && event_of(status) == 0) return true;
    // A stop for all of the group, or one of a clone: neither ends the list.
    if (ptrace(PTRACE_CONT, pid, 0, 0)) return false;
  }
  return false;
}

}  // namespace

bool attach(pid_t pid, Failure* failure) {
  long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                 PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SEIZE, pid, 0, options)) return failure->set("hold process %d", pid);
  if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) || !wait_for_stop(pid))
    return failure->set("stop process %d", pid);
  return true;
}

bool wait_for_stop(pid_t pid) {
  int status;
  return wait_status(pid, &status);
}

bool save_state(pid_t pid, StoppedState* state) {
  return ptrace(PTRACE_GETREGS, pid, 0, &state->registers) == 0 &&
         ptrace(PTRACE_GETSIGMASK, pid, sizeof state->signal_mask, &state->signal_mask) == 0;
}

bool block_signals(pid_t pid) {
  uint64_t mask = kAllButTrap;
  return ptrace(PTRACE_SETSIGMASK, pid, sizeof mask, &mask) == 0;
}

bool restore_state(pid_t pid, const StoppedState& state) {
  // As the kernel does when a call was interrupted; it cannot know of it in a copy.
  constexpr int64_t kRestartSys = -512, kRestartNoIntr = -513, kRestartNoHandler = -514,
                    kRestartBlock = -516;
  user_regs_struct registers = state.registers;
  auto result = int64_t(registers.rax);
  if (int64_t(registers.orig_rax) >= 0 &&
      (result == kRestartSys || result == kRestartNoIntr || result == kRestartNoHandler ||
       result == kRestartBlock)) {
    registers.rax = registers.orig_rax;
    registers.rip -= 2;
  }
  registers.orig_rax = ~uint64_t{0};
  return ptrace(PTRACE_SETREGS, pid, 0, &registers) == 0 &&
         ptrace(PTRACE_SETSIGMASK, pid, sizeof state.signal_mask, &state.signal_mask) == 0;
}

bool end_stop(pid_t pid) {
  int status;
  if (kill(pid, SIGCONT)) return false;
  do {
    if (ptrace(PTRACE_CONT, pid, 0, 0) || !wait_status(pid, &status)) return false;
  } while (WSTOPSIG(status) != SIGCONT || event_of(status) != 0);
  return true;
}

bool detach(pid_t pid, int signal) { return ptrace(PTRACE_DETACH, pid, 0, long{signal}) == 0; }

bool read_memory(pid_t pid, uint64_t address, void* out, size_t size) {
  iovec local{out, size}, remote{reinterpret_cast<void*>(address), size};
  return process_vm_readv(pid, &local, 1, &remote, 1, 0) == ssize_t(size);
}

bool write_memory(pid_t pid, uint64_t address, const void* data, size_t size) {
  iovec local{const_cast<void*>(data), size}, remote{reinterpret_cast<void*>(address), size};
  return process_vm_writev(pid, &local, 1, &remote, 1, 0) == ssize_t(size);
}

int64_t call_at(pid_t pid, const user_regs_struct& registers, uint64_t gadget, const Call& call) {
  user_regs_struct r = registers;
  r.rip = gadget;
  r.rax = call.number;
  r.orig_rax = ~uint64_t{0};
  r.rdi = call.arguments[0];
  r.rsi = call.arguments[1];
  r.rdx = call.arguments[2];
  r.r10 = call.arguments[3];
  r.r8 = call.arguments[4];
  r.r9 = call.arguments[5];
  if (ptrace(PTRACE_SETREGS, pid, 0, &r) || ptrace(PTRACE_SINGLESTEP, pid, 0, 0) ||
      !wait_for_trap(pid) || ptrace(PTRACE_GETREGS, pid, 0, &r))
    return -errno;
  return int64_t(r.rax);
}

uint64_t find_gadget(pid_t pid, uint64_t vdso) {
  static size_t offset = 0;  // the vdso is the kernel's: the same in every process
  static char code[kVdsoBytes];
  if (!vdso) return 0;
  if (!offset) {
    if (!read_memory(pid, vdso, code, sizeof code)) return 0;
    const void* found = memmem(code, sizeof code, "\x0f\x05", 2);
    if (!found) return 0;
    offset = size_t(static_cast<const char*>(found) - code);
  }
  return vdso + offset;
}

uint64_t map_area(pid_t pid, const user_regs_struct& registers, uint64_t gadget, uint64_t wanted) {
  uint64_t flags = MAP_PRIVATE | MAP_ANONYMOUS | (wanted ? 1u * MAP_FIXED_NOREPLACE : 0u);
  Call map{SYS_mmap,
           {wanted, Script::kAreaBytes, PROT_READ | PROT_WRITE | PROT_EXEC, flags, ~uint64_t{0}, 0},
           0,
           0};
  int64_t address = call_at(pid, registers, gadget, map);
  if (address < 0 && address > -4096) {
    errno = int(-address);
    return 0;
  }
  return Script::prepare(pid, uint64_t(address)) ? uint64_t(address) : 0;
}

bool unmap_area(pid_t pid, const user_regs_struct& registers, uint64_t gadget, uint64_t area) {
  Call unmap{SYS_munmap, {area, Script::kAreaBytes, 0, 0, 0, 0}, 0, 0};
  return call_at(pid, registers, gadget, unmap) == 0;
}

bool Script::prepare(pid_t pid, uint64_t area) {
  return write_memory(pid, area, espalier_calls_begin,
                      size_t(espalier_calls_end - espalier_calls_begin));
}

void Script::clear() {
  count_ = used_ = 0;
  full_ = false;
}

uint64_t Script::text(const char* text) { return data(text, strlen(text) + 1); }

uint64_t Script::data(const void* data, size_t size) {
  size_t room = (size + 15) & ~size_t{15};
  if (used_ + room > kDataBytes) {
    full_ = true;
    return 0;
  }
  size_t at = used_;
  used_ += room;
  if (data) {
    memcpy(data_ + at, data, size);
  } else {
    memset(data_ + at, 0, size);
  }
  return area_ + kDataOffset + at;
}

size_t Script::call(uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                    uint64_t f) {
  if (count_ == kMaxCalls) {
    full_ = true;
    return 0;
  }
  calls_[count_] = {number, {a, b, c, d, e, f}, 0, 0};
  return count_++;
}

size_t Script::call_flagged(uint64_t flags, uint64_t number, uint64_t a, uint64_t b, uint64_t c,
                            uint64_t d) {
  size_t index = call(number, a, b, c, d);
  calls_[index].flags = flags;
  return index;
}

bool Script::start(pid_t pid, const user_regs_struct& registers) {
  errno = E2BIG;
  if (full_ || !count_) return false;
  user_regs_struct r = registers;
  r.rip = area_;
  r.rbx = area_ + kCallsOffset;
  r.rbp = count_;
  r.rax = 0;
  r.orig_rax = ~uint64_t{0};
  return write_memory(pid, area_ + kCallsOffset, calls_, count_ * sizeof(Call)) &&
         (!used_ || write_memory(pid, area_ + kDataOffset, data_, used_)) &&
         ptrace(PTRACE_SETREGS, pid, 0, &r) == 0 && ptrace(PTRACE_CONT, pid, 0, 0) == 0;
}

bool Script::finish(pid_t pid) {
  if (!wait_for_trap(pid) || !read_memory(pid, area_ + kCallsOffset, calls_, count_ * sizeof(Call)))
    return false;
  for (size_t i = 0; i < count_; ++i) {
    int64_t result = calls_[i].result;
    if (result >= 0 || result < -4095 || calls_[i].flags & kMayFail) continue;
    failed_ = calls_[i].number;
    errno = int(-result);
    return false;
  }
  return !used_ || read_memory(pid, area_ + kDataOffset, data_, used_);
}

bool Script::run(pid_t pid, const user_regs_struct& registers) {
  failed_ = 0;
  return start(pid, registers) && finish(pid);
}

pid_t Script::run_clone(pid_t pid, const user_regs_struct& registers) {
  failed_ = 0;
  if (!start(pid, registers)) return -1;
  int status;
  unsigned long child = 0;
  while (wait_status(pid, &status)) {
    int event = event_of(status);
    if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK)
      ptrace(PTRACE_GETEVENTMSG, pid, 0, &child);
    if (WSTOPSIG(status) == SIGTRAP && event == 0) break;
    if (ptrace(PTRACE_CONT, pid, 0, 0)) return -1;
  }
  if (!read_memory(pid, area_ + kCallsOffset, calls_, count_ * sizeof(Call))) return -1;
  for (size_t i = 0; i < count_ && !child; ++i) {
    if (calls_[i].result >= 0 || calls_[i].flags & kMayFail) continue;
    failed_ = calls_[i].number;
    errno = int(-calls_[i].result);
    return -1;
  }
  if (!child || !wait_for_stop(pid_t(child))) return -1;
  return pid_t(child);
}

}  // namespace espalier::envs::init
