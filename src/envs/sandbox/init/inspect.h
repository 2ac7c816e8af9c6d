// What a session consists of beside its memory, and whether a copy of it can have all of that.
#pragma once

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {

enum class Carry : uint8_t {
  inherit,  // the copy has it by being one: /dev/null and the like
  output,   // the session's own pipes: the copy gets new ones
  command,
  status,
  reopen,  // by its path, at the same offset
  reopen_deleted,
  terminal,        // the session's: the copy gets a new one
  duplicate_pipe,  // a pipe nobody else has: a new one with the same content
  same_as,         // shares its offset with an earlier one
  of_parent,       // of a program: shares its offset with one of its parent
};

struct CarriedFd {
  int fd;
  int flags;  // as open(2)
  int64_t offset;
  uint64_t inode;
  Carry how;
  int other;         // same_as, of_parent: that descriptor
  const char* path;  // reopen, terminal, inherit

  bool is_writable() const;
};

/// Who it is, as /proc tells it.
struct SessionIdentity {
  pid_t outer_pid = 0;   // as this process sees it
  pid_t inner_pid = 0;   // as its own init sees it
  pid_t middle_pid = 0;  // as the init around that sees it; 0: there is none
  uint64_t vdso = 0;
  uint64_t capabilities[3] = {0, 0, 0};  // effective, permitted, inheritable
  uint32_t ids[3] = {0, 0, 0};           // real, effective, saved uid, as this process sees them
  bool is_bash = false;
};

/// Pipes of the session, by inode. All 0: it has a terminal.
struct SessionPipes {
  uint64_t output, command, status;
};

struct Inventory {
  static constexpr size_t kMaxFds = 48;
  static constexpr size_t kPathBytes = 16 * 1024;
  CarriedFd fds[kMaxFds];
  size_t fd_count = 0;
  char paths[kPathBytes];
  size_t path_bytes = 0;
  char directory[PATH_MAX];  // the working directory
};

struct InventoryRequest {
  pid_t pid = 0;  // as this process sees it
  const char* who = "the session";
  SessionPipes pipes{};
  bool program = false;  // that is rebuilt (graft.h), not the session
};

/// The programs below the session, as this process sees them: each is the only child of the one
/// before, the first of the session.
struct Lineage {
  static constexpr size_t kMax = 4;
  pid_t pids[kMax];
  size_t count = 0;
};

/// Why a session cannot be copied: what is in its way, and whether that may be about to end.
struct Refusal {
  char text[256] = {0};
  bool passing = false;
  bool set(bool may_pass, const char* format, ...) __attribute__((format(printf, 3, 4)));
};

/// The process a pidfd stands for, as this process sees it; 0: gone.
pid_t pid_of(const Base& base, int pidfd);
/// Fills in all but outer_pid, which is set. False when it has ended.
bool identify(const Base& base, SessionIdentity* session);
/// The child of `init` that its init sees as inner_pid; 0: none.
pid_t find_session(const Base& base, pid_t init, pid_t inner_pid);
/// False, with the refusal set, where the session or its sandbox has other processes than a copy
/// would have. `init` is the first process of its process namespace. Without `programs` the session
/// may have no children.
bool check_family(const Base& base, const SessionIdentity& session, pid_t init, Lineage* programs,
                  Refusal* why);
/// The same, where something would be missing that a process has of its own.
bool check_session(const Base& base, pid_t pid, Refusal* why);
/// The part of it that /proc/PID/status tells of any process or thread. `who` is how the refusal
/// calls it.
bool check_status(const char* status, const char* who, Refusal* why);
bool check_memory(const Base& base, const SessionIdentity& session, Refusal* why);
bool take_inventory(const Base& base, const InventoryRequest& request, Inventory* inventory,
                    Refusal* why);

}  // namespace espalier::envs::init
