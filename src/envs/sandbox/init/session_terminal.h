// The terminal of a frozen session and those of its copies.
#pragma once

#include "envs/sandbox/init/live_fork.h"

namespace espalier::envs::init {

/// Takes what was typed into the frozen session's terminal and not read yet: copies get it. True
/// when the session has no terminal.
bool take_typed(Frozen* frozen);
/// Gives it back.
void return_typed(const Frozen& frozen);
/// Makes a new terminal as the session's is: line settings, size, and what was typed.
bool prepare_terminal(const Frozen& frozen, int slave);

}  // namespace espalier::envs::init
