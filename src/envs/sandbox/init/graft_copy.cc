// The other half of graft.h: programs in the place of clones of their parents.
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>
#include <new>

#include "envs/sandbox/init/graft.h"
#include "envs/sandbox/init/graft_files.h"
#include "envs/sandbox/init/live_fork.h"
#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

pid_t clone_child(pid_t parent, const Program& program, const MemoryTarget& target,
                  Failure* failure) {
  Script* script = new_script(target.area);
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = script->data(&program.inner_pid, sizeof program.inner_pid);
  args.set_tid_size = 1;
  script->call(SYS_clone3, script->data(&args, sizeof args), sizeof args);
  pid_t pid = script->run_clone(parent, target.registers);
  if (pid < 0) failure->set("rebuild %s: clone it", program.name);
  return pid;
}

/// What it is among others, its signals and its descriptors. Has its parent's memory still.
bool become(const Program& program, const KernelState& parents, const Inventory& parents_files,
            const MemoryTarget& target, Failure* failure) {
  Script* script = new_script(target.area);
  // It would be written to where there is nothing any more.
  constexpr uint64_t kUnregister = 1;
  if (parents.rseq)
    script->call_flagged(kMayFail, SYS_rseq, parents.rseq, parents.rseq_bytes, kUnregister,
                         parents.rseq_signature);
  script->call(SYS_setpgid, 0, uint64_t(program.group));
  for (uint64_t i = 1; i <= Program::kSignals; ++i)
    if (i != SIGKILL && i != SIGSTOP)
      script->call(SYS_rt_sigaction, i, script->data(&program.actions[i - 1], sizeof(SignalAction)),
                   0, 8);
  replace_files(script, parents_files, program.inventory);
  script->call(SYS_chdir, script->text(program.inventory.directory));
  script->call(SYS_umask, program.umask);
  return script->run(target.pid, target.registers) ||
         failure->set("rebuild %s (call %lu)", program.name, script->failed_call());
}

/// What is told with its own memory in place.
bool settle(const Program& program, const MemoryTarget& target, Failure* failure) {
  Script* script = new_script(target.area);
  for (size_t i = 0; i < 4; ++i)
    script->call(SYS_prctl, uint64_t(kSettings[i].set), program.settings[i]);
  return script->run(target.pid, target.registers) ||
         failure->set("rebuild %s (call %lu)", program.name, script->failed_call());
}

/// The end of the privileges that brought it here, which each thread has for itself.
bool confine(const Frozen& frozen, const Program& program, const ThreadsTarget& target,
             Failure* failure) {
  for (size_t i = 0; i < target.count; ++i) {
    Script* script = new_script(target.area);
    drop_capabilities(script, frozen.session);
    script->call(SYS_prctl, PR_SET_DUMPABLE, uint64_t(program.threads.all[0].kernel.dumpable));
    if (!script->run(target.ids[i], script_registers(program.threads.all[i], target.area)))
      return failure->set("confine %s (call %lu)", program.name, script->failed_call());
    setpriority(PRIO_PROCESS, id_t(target.ids[i]), program.nice);
  }
  for (int i = 0; i < Program::kLimits; ++i)
    prlimit(target.ids[0], static_cast<__rlimit_resource>(i),
            reinterpret_cast<const rlimit*>(program.limits[i]), nullptr);
  return true;
}

/// Brings the programs' group to the foreground of the copy's terminal, where it was.
bool bring_forward(const Frozen& frozen, pid_t copy, Failure* failure) {
  const Program* program = nullptr;
  for (size_t i = 0; i < frozen.programs.count; ++i)
    if (frozen.programs.all[i]->foreground) program = frozen.programs.all[i];
  for (size_t i = 0; program && i < frozen.inventory.fd_count; ++i) {
    if (frozen.inventory.fds[i].how != Carry::terminal) continue;
    Script* script = new_script(frozen.area);
    script->call(SYS_ioctl, uint64_t(frozen.inventory.fds[i].fd), TIOCSPGRP,
                 script->data(&program->group, sizeof program->group));
    return script->run(copy, frozen.state.registers) ||
           failure->set("bring %s to the foreground", program->name);
  }
  return true;
}

/// What the process that a program is rebuilt in has from its parent.
struct Heritage {
  const Inventory* files;
  const KernelState* kernel;
  const KernelPages* pages;
};

bool rebuild(const Base& base, const Frozen& frozen, const Program& program, pid_t parent,
             const Heritage& from, ThreadsTarget* threads, Failure* failure) {
  const Programs& programs = frozen.programs;
  const MemoryMap& memory = program.memory;
  MemoryTarget target{-1,
                      script_registers(program.threads.all[0], programs.area),
                      programs.area,
                      from.pages,
                      programs.spare,
                      spare_descriptor(*from.files, program.inventory)};
  target.pid = clone_child(parent, program, target, failure);
  if (target.pid < 0) return false;
  *threads = {{target.pid}, 1, programs.area};
  return become(program, *from.kernel, *from.files, target, failure) &&
         map_regions(memory, target, failure) &&
         copy_contents(base, memory, program.outer_pid, target.pid, failure) &&
         finish_regions(memory, target, failure) && settle(program, target, failure);
}

/// The rest, once it has been a parent: a clone of it must not have threads' state.
bool complete(const Frozen& frozen, const Program& program, ThreadsTarget* target,
              Failure* failure) {
  return clone_threads(program.threads, target, failure) &&
         settle_threads(program.threads, *target, failure) &&
         make_timers(program.timers, program.threads, *target, failure) &&
         confine(frozen, program, *target, failure);
}

}  // namespace

bool rebuild_programs(const Base& base, const Frozen& frozen, pid_t copy, Rebuilt* rebuilt,
                      Failure* failure) {
  const Programs& programs = frozen.programs;
  KernelState none{};  // until complete(), a rebuilt program has nothing to unregister
  Heritage from{&frozen.inventory, &frozen.kernel, &programs.session_pages};
  pid_t parent = copy;
  for (size_t i = 0; i < programs.count; ++i) {
    const Program& program = *programs.all[i];
    ThreadsTarget* target = &rebuilt->all[rebuilt->count++];
    *target = {};
    if (!rebuild(base, frozen, program, parent, from, target, failure)) return false;
    from = {&program.inventory, &none, &program.memory.kernel};
    parent = target->ids[0];
  }
  if (!bring_forward(frozen, copy, failure)) return false;
  for (size_t i = 0; i < programs.count; ++i)
    if (!complete(frozen, *programs.all[i], &rebuilt->all[i], failure)) return false;
  return true;
}

bool start_programs(const Frozen& frozen, pid_t copy, const Rebuilt& rebuilt, Failure* failure) {
  for (size_t i = rebuilt.count; i-- > 0;) {
    const Program& program = *frozen.programs.all[i];
    if (!start_threads(program.threads, rebuilt.all[i], program.gadget))
      return failure->set("let %s go", program.name);
    if (i > 0 || !program.threads.stopped) continue;
    // The shell knows already, and must not be told again.
    Script* script = new_script(frozen.area);
    script->call(SYS_wait4, uint64_t(program.inner_pid), 0, WUNTRACED);
    if (!script->run(copy, frozen.state.registers))
      return failure->set("wait for %s to stop", program.name);
  }
  return true;
}

void kill_programs(const Rebuilt& rebuilt) {
  for (size_t i = 0; i < rebuilt.count; ++i) kill_threads(rebuilt.all[i]);
}

}  // namespace espalier::envs::init
