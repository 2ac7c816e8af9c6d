#include "envs/sandbox/init/graft_thread.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envs/sandbox/init/live_fork.h"
#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kMaxXstate = 32 * 1024;

const char* read_of_thread(const Base& base, pid_t pid, pid_t id, const char* name) {
  char path[64];
  snprintf(path, sizeof path, "task/%d/%s", id, name);
  return read_proc(base, pid, path);
}

bool hold(const Base& base, pid_t pid, pid_t id, const char* who, Threads* threads, Refusal* why) {
  if (threads->count == Threads::kMax)
    return why->set(false, "%s has more than %zu threads", who, Threads::kMax);
  const char* status = read_of_thread(base, pid, id, "status");
  const char* state = status ? field(status, "State") : nullptr;
  if (!state) return why->set(true, "a thread of %s has ended", who);
  // Whoever waits for a vfork cannot be stopped.
  if (*state == 'D') return why->set(true, "%s waits inside the kernel", who);
  if (*state == 'T') {
    // It is the first that takes the signal.
    if (threads->count == 0 && number(status, "SigBlk", 16) & (uint64_t{1} << (SIGCONT - 1)))
      return why->set(false, "%s is stopped and blocks SIGCONT", who);
    threads->stopped = true;
  }
  Thread* thread = &threads->all[threads->count];
  *thread = {};
  thread->outer_id = id;
  thread->inner_id = innermost_id(status, "NSpid");
  sched_getaffinity(id, sizeof thread->cpus, reinterpret_cast<cpu_set_t*>(thread->cpus));
  // To where its tracer works (bring_to).
  cpu_set_t ours;
  sched_getaffinity(0, sizeof ours, &ours);
  sched_setaffinity(id, sizeof ours, &ours);
  Failure failure;
  if (!attach(id, &failure)) return why->set(true, "%.200s", failure.text);
  ++threads->count;
  return true;
}

bool holds(const Threads& threads, pid_t id) {
  for (size_t i = 0; i < threads.count; ++i)
    if (threads.all[i].outer_id == id) return true;
  return false;
}

/// One look at which threads there are; says whether there were new ones.
bool hold_others(const Base& base, pid_t pid, const char* who, Threads* threads, bool* found,
                 Refusal* why) {
  char path[32];
  snprintf(path, sizeof path, "%d/task", pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = fd < 0 ? nullptr : fdopendir(fd);
  if (!dir) return why->set(true, "%s has ended", who);
  *found = false;
  bool done = true;
  while (dirent* entry = done ? readdir(dir) : nullptr) {
    pid_t id = atoi(entry->d_name);
    if (id <= 0 || holds(*threads, id)) continue;
    *found = true;
    done = hold(base, pid, id, who, threads, why);
  }
  closedir(dir);
  return done;
}

bool take_xstate(Thread* thread) {
  static char buffer[kMaxXstate];
  iovec part{buffer, sizeof buffer};
  if (ptrace(PTRACE_GETREGSET, thread->outer_id, NT_X86_XSTATE, &part)) return false;
  thread->xstate = static_cast<char*>(malloc(part.iov_len));
  if (!thread->xstate) return false;
  memcpy(thread->xstate, buffer, part.iov_len);
  thread->xstate_bytes = part.iov_len;
  return true;
}

}  // namespace

bool hold_threads(const Base& base, pid_t pid, const char* who, Threads* threads, Refusal* why) {
  if (!hold(base, pid, pid, who, threads, why)) return false;
  for (bool found = true; found;)
    if (!hold_others(base, pid, who, threads, &found, why)) return false;
  return true;
}

bool check_threads(const Base& base, pid_t pid, const char* who, Threads* threads, Refusal* why) {
  for (size_t i = 0; i < threads->count; ++i) {
    const char* status = read_of_thread(base, pid, threads->all[i].outer_id, "status");
    if (!check_status(status, who, why)) return false;
    const char* command = read_of_thread(base, pid, threads->all[i].outer_id, "comm");
    if (!command) return why->set(true, "a thread of %s has ended", who);
    char* kept = threads->all[i].command;
    snprintf(kept, sizeof Thread::command, "%.*s", int(strcspn(command, "\n")), command);
  }
  return true;
}

bool save_threads(Threads* threads) {
  // Whoever is stopped makes no calls.
  if (threads->stopped && !end_stop(threads->all[0].outer_id)) return false;
  for (size_t i = 0; i < threads->count; ++i) {
    Thread* thread = &threads->all[i];
    if (!save_state(thread->outer_id, &thread->state) || !block_signals(thread->outer_id) ||
        !take_xstate(thread))
      return false;
    thread->acts = true;
  }
  return true;
}

bool ask_threads(Threads* threads, uint64_t area) {
  for (size_t i = 0; i < threads->count; ++i) {
    Thread* thread = &threads->all[i];
    Script* script = new_script(area);
    KernelQuestions questions(script);
    uint64_t clear_id = script->data(nullptr, 8);
    script->call(SYS_prctl, PR_GET_TID_ADDRESS, clear_id);
    if (!script->run(thread->outer_id, script_registers(*thread, area))) return false;
    questions.answers(*script, thread->outer_id, &thread->kernel);
    memcpy(&thread->clear_id, script->read_back(clear_id), 8);
  }
  return true;
}

void release_threads(const Threads& threads) {
  for (size_t i = 0; i < threads.count; ++i) {
    const Thread& thread = threads.all[i];
    if (thread.acts) restore_state(thread.outer_id, thread.state);
    sched_setaffinity(thread.outer_id, sizeof thread.cpus,
                      reinterpret_cast<const cpu_set_t*>(thread.cpus));
    detach(thread.outer_id, threads.stopped && i == 0 && thread.acts ? SIGSTOP : 0);
  }
}

void free_threads(Threads* threads) {
  for (size_t i = 0; i < threads->count; ++i) free(threads->all[i].xstate);
  threads->count = 0;
}

user_regs_struct script_registers(const Thread& thread, uint64_t area) {
  user_regs_struct registers = thread.state.registers;
  registers.rsp = area + Script::kAreaBytes - 64;
  return registers;
}

bool clone_threads(const Threads& threads, ThreadsTarget* target, Failure* failure) {
  while (target->count < threads.count) {
    const Thread& thread = threads.all[target->count];
    Script* script = new_script(target->area);
    clone_args args{};
    args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD;
    args.set_tid = script->data(&thread.inner_id, sizeof thread.inner_id);
    args.set_tid_size = 1;
    script->call(SYS_clone3, script->data(&args, sizeof args), sizeof args);
    pid_t id = script->run_clone(target->ids[0], script_registers(threads.all[0], target->area));
    if (id < 0) return failure->set("rebuild a program's thread %d", thread.inner_id);
    target->ids[target->count++] = id;
  }
  return true;
}

bool settle_threads(const Threads& threads, const ThreadsTarget& target, Failure* failure) {
  for (size_t i = 0; i < threads.count; ++i) {
    const Thread& thread = threads.all[i];
    Script* script = new_script(target.area);
    restore_kernel_state(script, thread.kernel);
    script->call(SYS_set_tid_address, thread.clear_id);
    script->call(SYS_prctl, PR_SET_NAME, script->text(thread.command));
    if (!script->run(target.ids[i], script_registers(thread, target.area)))
      return failure->set("rebuild a program's thread (call %lu)", script->failed_call());
  }
  return true;
}

bool start_threads(const Threads& threads, const ThreadsTarget& target, uint64_t gadget) {
  if (!unmap_area(target.ids[0], threads.all[0].state.registers, gadget, target.area)) return false;
  for (size_t i = 0; i < threads.count; ++i) {
    const Thread& thread = threads.all[i];
    iovec xstate{thread.xstate, thread.xstate_bytes};
    sched_setaffinity(target.ids[i], sizeof thread.cpus,
                      reinterpret_cast<const cpu_set_t*>(thread.cpus));
    if (ptrace(PTRACE_SETREGSET, target.ids[i], NT_X86_XSTATE, &xstate) ||
        !restore_state(target.ids[i], thread.state))
      return false;
  }
  for (size_t i = target.count; i-- > 1;)
    if (!detach(target.ids[i])) return false;
  return detach(target.ids[0], threads.stopped ? SIGSTOP : 0);
}

void kill_threads(const ThreadsTarget& target) {
  if (!target.count) return;
  kill(target.ids[0], SIGKILL);
  // The first ends when all others have been waited for.
  for (size_t i = target.count; i-- > 0;)
    while (waitpid(target.ids[i], nullptr, __WALL) < 0 && errno == EINTR) {
    }
}

}  // namespace espalier::envs::init
