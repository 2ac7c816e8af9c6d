#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "envs/sandbox/init/graft_thread.h"
#include "envs/sandbox/init/live_fork.h"
#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

constexpr int kMaxId = 100;  // ids are given in turn: those left out are made and removed

/// As the kernel lays it out.
struct SignalEvent {
  uint64_t value;
  int32_t signal, notify, thread;
  int32_t padding[11];
};

bool parse(const char* text, PosixTimer* timer, int* receiver) {
  char how[16], whom[8];
  int signal;
  if (sscanf(text, "ID: %d\nsignal: %d/%lx\nnotify: %15[a-z]/%7[a-z].%d\nClockID: %d", &timer->id,
             &signal, &timer->value, how, whom, receiver, &timer->clock) != 7)
    return false;
  timer->signal = signal;
  timer->notify = !strcmp(how, "none") ? SIGEV_NONE : SIGEV_SIGNAL;
  if (!strcmp(whom, "tid")) timer->notify |= SIGEV_THREAD_ID;
  return !strcmp(how, "none") || !strcmp(how, "signal");
}

}  // namespace

bool read_timers(const Base& base, pid_t pid, const char* who, const Threads& threads,
                 PosixTimers* timers, Refusal* why) {
  const char* text = read_proc(base, pid, "timers");
  timers->count = 0;
  for (const char* at = text; at && (at = strstr(at, "ID: ")); at += 4) {
    if (at > text && at[-1] != '\n') continue;  // ClockID
    int receiver = 0;
    if (timers->count == PosixTimers::kMax) return why->set(false, "%s has many timers", who);
    PosixTimer* timer = &timers->all[timers->count++];
    *timer = {};
    if (!parse(at, timer, &receiver) || timer->id < 0 || timer->id >= kMaxId)
      return why->set(false, "%s has a strange timer", who);
    while (timer->thread < threads.count && threads.all[timer->thread].outer_id != receiver)
      ++timer->thread;
    if (timer->thread == threads.count && timer->notify & SIGEV_THREAD_ID)
      return why->set(false, "%s has a timer for a thread that has ended", who);
    for (; timer > timers->all && timer[-1].id > timer->id; --timer) {  // the kernel says it anyhow
      PosixTimer before = timer[-1];
      timer[-1] = *timer;
      *timer = before;
    }
  }
  return true;
}

bool ask_timers(pid_t pid, const user_regs_struct& registers, uint64_t area, PosixTimers* timers) {
  if (!timers->count) return true;
  Script* script = new_script(area);
  uint64_t times[PosixTimers::kMax];
  for (size_t i = 0; i < timers->count; ++i) {
    times[i] = script->data(nullptr, sizeof timers->all[i].times);
    script->call(SYS_timer_gettime, uint64_t(timers->all[i].id), times[i]);
  }
  if (!script->run(pid, registers)) return false;
  for (size_t i = 0; i < timers->count; ++i)
    memcpy(timers->all[i].times, script->read_back(times[i]), sizeof timers->all[i].times);
  return true;
}

bool make_timers(const PosixTimers& timers, const Threads& threads, const ThreadsTarget& target,
                 Failure* failure) {
  if (!timers.count) return true;
  Script* script = new_script(target.area);
  uint64_t ids = script->data(nullptr, kMaxId * sizeof(int32_t));
  int32_t next = 0;
  for (size_t i = 0; i < timers.count; ++i, ++next) {
    const PosixTimer& timer = timers.all[i];
    SignalEvent event{timer.value, timer.signal, timer.notify, 0, {}};
    if (timer.notify & SIGEV_THREAD_ID) event.thread = threads.all[timer.thread].inner_id;
    uint64_t told = script->data(&event, sizeof event);
    for (;; ++next) {
      script->call(SYS_timer_create, uint64_t(int64_t{timer.clock}), told,
                   ids + uint64_t(next) * sizeof(int32_t));
      if (next == timer.id) break;
      script->call(SYS_timer_delete, uint64_t(next));
    }
    if (timer.times[2] || timer.times[3])
      script->call(SYS_timer_settime, uint64_t(timer.id), 0,
                   script->data(timer.times, sizeof timer.times));
  }
  if (!script->run(target.ids[0], script_registers(threads.all[0], target.area)))
    return failure->set("rebuild a program's timers (call %lu)", script->failed_call());
  const auto* given = static_cast<const int32_t*>(script->read_back(ids));
  errno = EBUSY;
  for (int32_t id = 0; id < next; ++id)
    if (given[id] != id) return failure->set("rebuild a program's timers");
  return true;
}

}  // namespace espalier::envs::init
