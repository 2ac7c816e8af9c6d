// The live fork: a session is frozen for good and copied, with its memory, into inits that wait for
// it. Both what goes on in its place and the fork's child are copies, each in a process namespace
// of its own inside that of the frozen one, in which nothing else runs any more.
//
// How a copy is made: the frozen session clones a carrier that shares its memory and has its own
// descriptors. The carrier enters the new sandbox's namespaces (the agent owns the user namespace,
// so it may), opens the files again and clones the copy, which gets the session's old pid there.
#pragma once

#include "envs/sandbox/init/graft.h"
#include "envs/sandbox/init/inspect.h"
#include "envs/sandbox/init/kernel_state.h"
#include "envs/sandbox/init/tracer.h"

namespace espalier::envs::init {

/// A session held by this process.
struct Frozen {
  uint64_t id = 0;
  pid_t init = 0;  // the first process of its sandbox
  SessionIdentity session;
  SessionPipes pipes;
  Inventory inventory;
  StoppedState state;
  uint64_t area = 0;      // of its memory, for scripts
  uint64_t gadget = 0;    // a system call instruction in it
  int socket = -1;        // descriptors for carriers are sent here …
  int its_sockets[2];     // … and arrive at the second of these, its own
  char* typed = nullptr;  // into its terminal and not read yet, by malloc
  size_t typed_bytes = 0;
  uint64_t cpus[16];          // its affinity mask
  bool sealed = false;        // its upper is read-only …
  bool mount_sealed = false;  // … or the mount it is seen by
  uint32_t copies = 0;
  KernelState kernel{};
  Programs programs;  // below it
};

/// The call by which a copy loses the capabilities that brought it into its sandbox.
void drop_capabilities(Script* script, const SessionIdentity& session);

/// An empty script; the one before it is gone.
Script* new_script(uint64_t area);

/// Freezes the session. Outcome as wire::FreezeOutcome; when it is not kFrozen the session goes on
/// and `why` is set.
uint32_t freeze(const Base& base, const wire::FreezeRequest& request, int init_pidfd,
                Frozen* frozen, Refusal* why);

/// What a copy is given.
struct CopyPlan {
  int link = -1;  // to its init, which sends its pidfd and then a byte when it is ready
  int output = -1, command = -1, status = -1;  // -1: the init sends a terminal
  uint32_t depth = 0;
  const int* groups = nullptr;  // control groups that programs are rebuilt in
  size_t group_count = 0;
};

/// A session that runs.
struct Copied {
  pid_t pid = -1;
  pid_t reaper_pid = 0;  // its pid as the init of the first sandbox of its line, its parent, knows
  pid_t carrier = -1;    // done with: to be killed and reaped, which may take longer than the rest
};

/// Makes one copy and lets it run. A carrier is returned in any case.
bool copy(const Base& base, Frozen* frozen, const CopyPlan& plan, Copied* copied, Failure* failure);

/// Lets a frozen session of which there is no copy go on.
bool thaw(const Base& base, Frozen* frozen, Failure* failure);

}  // namespace espalier::envs::init
