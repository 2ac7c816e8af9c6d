// The terminal of a session: a pty of the sandbox's own devpts.
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "envs/sandbox/wire.h"

namespace espalier::envs::init {

struct Pty {
  int master = -1;
  int slave = -1;
  char name[32] = {0};  // as processes inside see it
};

/// Opens a new pty of this size; the slave belongs to `owner` unless that is the opener. False on
/// error (errno).
bool open_pty(const wire::TerminalShape& shape, uid_t owner, Pty* pty);
void close_pty(Pty* pty);

/// Makes the slave the controlling terminal and the standard descriptors of this process, which
/// leads its session. Async-signal-safe.
bool enter_terminal(const Pty& pty);

/// Whether a process sleeps in a read of its standard input, or waits for it to become readable.
bool waits_for_input(pid_t pid);

}  // namespace espalier::envs::init
