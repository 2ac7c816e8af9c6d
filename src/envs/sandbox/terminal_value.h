// The state of a bash on a terminal, by value.
#pragma once

#include <memory>
#include <string>

#include "envs/sandbox/sandbox.h"

namespace espalier::envs::sandbox {

/// Writes the session down as text for SandboxSeed::restore, and sets the sandbox's last exit code.
/// Nothing of it is seen on the screen. Errors: NotForkable unless bash waits for the first line of
/// a command. On the reactor's thread; nothing else may run in the sandbox.
void dump_terminal(const std::shared_ptr<Sandbox>& sandbox, Completion<std::string> done);

/// Has the bash at the terminal's prompt run `text`; done gets what that wrote. Errors: as above.
void ask_terminal(const std::shared_ptr<Sandbox>& sandbox, std::string text,
                  Completion<std::string> done);

}  // namespace espalier::envs::sandbox
