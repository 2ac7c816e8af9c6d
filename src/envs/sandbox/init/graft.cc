#include "envs/sandbox/init/graft.h"

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

#include "envs/sandbox/init/graft_files.h"
#include "envs/sandbox/init/live_fork.h"
#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

constexpr uint64_t kFirstPlace = 0x10000000, kPlaceStep = 0x1000000, kLastPlace = 0x400000000;
constexpr uint64_t kSpareOffset = 0x80000, kPlaceBytes = 0x100000;

bool same_line(const char* one, const char* other, const char* name) {
  const char *a = field(one, name), *b = field(other, name);
  size_t length = a ? strcspn(a, "\n") : 0;
  return !a == !b && (!a || (length == strcspn(b, "\n") && !memcmp(a, b, length)));
}

/// What a clone of the session would have and the program has not: nothing may be won or lost.
bool check_rights(const Base& base, const Frozen& frozen, const Program& program, Refusal* why) {
  constexpr const char* kLines[] = {"Uid",
                                    "Gid",
                                    "Groups",
                                    "CapInh",
                                    "CapPrm",
                                    "CapEff",
                                    "CapBnd",
                                    "CapAmb",
                                    "NoNewPrivs",
                                    "Seccomp",
                                    "Speculation_Store_Bypass",
                                    "Seccomp_filters"};
  static char session[16 * 1024];
  const char* status = read_proc(base, frozen.session.outer_pid, "status");
  if (!status) return why->set(false, "the session has ended");
  snprintf(session, sizeof session, "%s", status);
  status = read_proc(base, program.outer_pid, "status");
  if (!status) return why->set(true, "%s has ended", program.name);
  for (const char* line : kLines)
    if (!same_line(session, status, line))
      return why->set(false, "%s has not the session's rights (%s)", program.name, line);
  char ours[64];
  snprintf(ours, sizeof ours, "%s", read_proc(base, frozen.session.outer_pid, "personality"));
  const char* its = read_proc(base, program.outer_pid, "personality");
  if (!its || strcmp(ours, its) != 0) return why->set(false, "%s has a personality", program.name);
  char root[8];
  if (read_link(base, program.outer_pid, "root", root, sizeof root) != 1)
    return why->set(false, "%s has another root directory", program.name);
  return true;
}

/// Sharing by other ways than being a child.
bool check_separate(pid_t parent, const Program& program, Refusal* why) {
  for (int kind : {KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND})
    if (syscall(SYS_kcmp, parent, program.outer_pid, kind, 0, 0) == 0)
      return why->set(true, "%s shares its memory or files with its parent", program.name);
  return true;
}

bool identify_program(const Base& base, Program* program, Refusal* why) {
  const char* status = read_proc(base, program->outer_pid, "status");
  const char* command = status ? field(status, "Name") : nullptr;
  if (!command) return why->set(true, "a program below the session has ended");
  program->inner_pid = innermost_id(status, "NSpid");
  program->group = innermost_id(status, "NSpgid");
  program->umask = uint32_t(number(status, "Umask", 8));
  snprintf(program->name, sizeof program->name, "the program %.*s (%d)",
           int(strcspn(command, "\n")), command, program->inner_pid);
  return true;
}

/// Session and process group can be had again.
bool check_group(const Base& base, const Frozen& frozen, const Programs& programs, Program* program,
                 Refusal* why) {
  const char* status = read_proc(base, program->outer_pid, "status");
  if (!status || innermost_id(status, "NSsid") != frozen.session.inner_pid)
    return why->set(false, "%s has a session of its own", program->name);
  bool known = program->group == program->inner_pid || program->group == frozen.session.inner_pid;
  for (size_t i = 0; i < programs.count; ++i)
    known = known || program->group == programs.all[i]->inner_pid;
  if (!known) return why->set(false, "the first of the pipeline of %s has ended", program->name);
  const char* stat = read_proc(base, program->outer_pid, "stat");
  const char* at = stat ? strrchr(stat, ')') : nullptr;
  long group = 0, foreground = 0;
  if (!at || sscanf(at, ") %*c %*d %ld %*d %*d %ld", &group, &foreground) != 2)
    return why->set(true, "%s has ended", program->name);
  program->foreground = group == foreground;
  return true;
}

bool take_scheduling(Program* program) {
  pid_t pid = program->outer_pid;
  errno = 0;
  program->nice = getpriority(PRIO_PROCESS, id_t(pid));
  for (int i = 0; i < Program::kLimits; ++i)
    if (prlimit(pid, static_cast<__rlimit_resource>(i), nullptr,
                reinterpret_cast<rlimit*>(program->limits[i])))
      return false;
  return errno == 0;
}

bool inspect_program(const Base& base, const Frozen& frozen, const Programs& programs, size_t index,
                     Refusal* why) {
  Program* program = programs.all[index];
  pid_t pid = program->outer_pid;
  Ancestor ancestors[Lineage::kMax + 1] = {{frozen.session.outer_pid, &frozen.inventory}};
  for (size_t i = 0; i < index; ++i)
    ancestors[i + 1] = {programs.all[i]->outer_pid, &programs.all[i]->inventory};
  InventoryRequest request;
  request.pid = pid;
  request.who = program->name;
  request.program = true;
  return check_threads(base, pid, program->name, &program->threads, why) &&
         read_timers(base, pid, program->name, program->threads, &program->timers, why) &&
         check_rights(base, frozen, *program, why) &&
         check_separate(ancestors[index].pid, *program, why) &&
         check_group(base, frozen, programs, program, why) &&
         take_inventory(base, request, &program->inventory, why) &&
         relate_files(pid, program->name, ancestors, index + 1, &program->inventory, why) &&
         read_regions(base, pid, program->name, &program->memory, why) &&
         read_contents(base, pid, program->name, &program->memory, why) &&
         (take_scheduling(program) ||
          why->set(false, "%s cannot be looked at: %.80s", program->name, strerror(errno)));
}

bool hold(const Base& base, pid_t pid, Programs* programs, Refusal* why) {
  auto* memory = calloc(1, sizeof(Program));
  if (!memory) return why->set(false, "out of memory");
  auto* program = new (memory) Program;
  programs->all[programs->count++] = program;
  program->outer_pid = pid;
  if (!identify_program(base, program, why) ||
      !hold_threads(base, pid, program->name, &program->threads, why))
    return false;
  // Whether a stopped program's parent knows of it is its own affair, but for the shell's.
  return programs->count == 1 || !program->threads.stopped ||
         why->set(false, "%s is stopped", program->name);
}

/// An address at which nobody has anything.
bool find_place(const Base& base, const Frozen& frozen, Programs* programs, Refusal* why) {
  MemoryMap session{};
  bool done = read_regions(base, frozen.session.outer_pid, "the session", &session, why);
  programs->session_pages = session.kernel;
  uint64_t place = kFirstPlace;
  for (; done && place < kLastPlace; place += kPlaceStep) {
    bool free = is_free(session, place, kPlaceBytes);
    for (size_t i = 0; i < programs->count; ++i)
      free = free && is_free(programs->all[i]->memory, place, kPlaceBytes);
    if (free) break;
  }
  free_memory_map(&session);
  programs->area = place;
  programs->spare = place + kSpareOffset;
  return done && (place < kLastPlace || why->set(false, "there is no room for system calls"));
}

/// Answers of the program to what only it can be asked.
bool ask_program(Program* program, uint64_t area) {
  Script* script = new_script(area);
  uint64_t actions = script->data(nullptr, sizeof program->actions);
  uint64_t settings = script->data(nullptr, sizeof program->settings);
  for (uint64_t i = 1; i <= Program::kSignals; ++i)
    script->call(SYS_rt_sigaction, i, 0, actions + (i - 1) * sizeof(SignalAction), 8);
  size_t first = script->call(SYS_brk, 0);
  for (uint64_t i = 0; i < 4; ++i)
    script->call(SYS_prctl, uint64_t(kSettings[i].get),
                 kSettings[i].by_address ? settings + 8 * i : 0);
  for (size_t i = 0; i < program->inventory.fd_count; ++i)
    script->call(SYS_fcntl, uint64_t(program->inventory.fds[i].fd), F_GETFD);
  if (!script->run(program->outer_pid, program->registers())) return false;
  memcpy(program->actions, script->read_back(actions), sizeof program->actions);
  memcpy(program->settings, script->read_back(settings), sizeof program->settings);
  program->memory.bounds.brk = uint64_t(script->result(first));
  for (size_t i = 0; i < 4; ++i)
    if (!kSettings[i].by_address) program->settings[i] = uint64_t(script->result(first + 1 + i));
  for (size_t i = 0; i < program->inventory.fd_count; ++i) {
    int& flags = program->inventory.fds[i].flags;
    flags = (flags & ~O_CLOEXEC) | (script->result(first + 5 + i) & FD_CLOEXEC ? O_CLOEXEC : 0);
  }
  return true;
}

bool take_state(Program* program, uint64_t area) {
  pid_t pid = program->outer_pid;
  if (!save_threads(&program->threads)) return false;
  program->gadget = find_gadget(pid, program->memory.kernel.vdso);
  errno = ENOEXEC;
  if (!program->gadget || !map_area(pid, program->registers(), program->gadget, area)) return false;
  program->has_area = true;
  return ask_program(program, area) && ask_threads(&program->threads, area) &&
         ask_timers(pid, program->registers(), area, &program->timers);
}

}  // namespace

bool hold_programs(const Base& base, const Frozen& frozen, const Lineage& lineage,
                   Programs* programs, Refusal* why) {
  for (size_t i = 0; i < lineage.count; ++i)
    if (!hold(base, lineage.pids[i], programs, why)) return false;
  Lineage now;
  if (!check_family(base, frozen.session, frozen.init, &now, why)) return false;
  if (now.count != lineage.count || memcmp(now.pids, lineage.pids, now.count * sizeof(pid_t)) != 0)
    return why->set(true, "the programs below the session come and go");
  for (size_t i = 0; i < programs->count; ++i)
    if (!inspect_program(base, frozen, *programs, i, why)) return false;
  if (!find_place(base, frozen, programs, why)) return false;
  for (size_t i = 0; i < programs->count; ++i)
    if (!take_state(programs->all[i], programs->area))
      return why->set(false, "%s cannot be made to act for us: %.80s", programs->all[i]->name,
                      strerror(errno));
  return true;
}

bool close_writers(Programs* programs, Refusal* why) {
  for (size_t i = 0; i < programs->count; ++i) {
    Program& program = *programs->all[i];
    Script* script = new_script(programs->area);
    close_writers(script, program.inventory);
    if (script->is_empty()) continue;
    program.writers_closed = true;
    if (!script->run(program.outer_pid, program.registers()))
      return why->set(false, "%s cannot be made to close its files", program.name);
  }
  return true;
}

void release_programs(Programs* programs) {
  for (size_t i = 0; i < programs->count; ++i) {
    Program& program = *programs->all[i];
    if (program.writers_closed) {
      Script* script = new_script(programs->area);
      reopen_writers(script, program.inventory);
      script->run(program.outer_pid, program.registers());
    }
    if (program.has_area)
      unmap_area(program.outer_pid, program.registers(), program.gadget, programs->area);
    release_threads(program.threads);
    program.ended = true;  // to us
  }
  forget_programs(programs);
}

void forget_programs(Programs* programs) {
  for (size_t i = 0; i < programs->count; ++i) {
    Program* program = programs->all[i];
    if (!program->ended) kill(program->outer_pid, SIGKILL);
    free_threads(&program->threads);
    free_memory_map(&program->memory);
    free(program);
  }
  programs->count = 0;
}

void program_ended(Programs* programs, pid_t outer_pid) {
  for (size_t i = 0; i < programs->count; ++i)
    if (programs->all[i]->outer_pid == outer_pid) programs->all[i]->ended = true;
}

}  // namespace espalier::envs::init
