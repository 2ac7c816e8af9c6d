// How a bash on a terminal is started, and how its state is asked for and set again.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace espalier::envs::sandbox {

/// Written to the terminal when bash is set up; its prompt follows.
inline constexpr std::string_view kTerminalReady = "\033]espalier;ready\033\\";

std::vector<std::string> terminal_shell_argv();
/// Bash text for descriptor kShellStateFd (shell.h), run before the first prompt; `restore` is part
/// of it.
std::string terminal_setup_text(const std::string& restore);

}  // namespace espalier::envs::sandbox
