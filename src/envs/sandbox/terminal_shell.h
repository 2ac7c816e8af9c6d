// How a bash on a terminal is started, and how its state is written down and set again.
//
// Everything passes through the terminal itself, behind a curtain: a key sequence that no keyboard
// sends makes readline read a script and run it, whatever stands on the line being edited.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "envs/sandbox/terminal_session.h"
#include "envs/terminal/screen.h"

namespace espalier::envs::sandbox {

/// What bash writes to the terminal: it is set up, and what follows is shown.
inline constexpr std::string_view kTerminalReady = "\033]espalier;ready\033\\";
/// … what follows is shown no more, until its prompt stands.
inline constexpr std::string_view kTerminalCurtain = "\033]espalier;curtain\033\\";
/// … `$?` follows, ended by kTerminalEnd; it reads the script, up to a NUL.
inline constexpr std::string_view kTerminalAsk = "\033]espalier;ask;";
/// … between these, what the script writes.
inline constexpr std::string_view kTerminalAnswer = "\033]espalier;answer\033\\";
inline constexpr std::string_view kTerminalDone = "\033]espalier;done\033\\";
inline constexpr std::string_view kTerminalEnd = "\033\\";

inline constexpr std::string_view kTerminalAskKeys = "\033[9999~";

std::vector<std::string> terminal_shell_argv(bool restore);
/// Bash text for descriptor kShellStateFd (shell.h), run before the first prompt. `restore` is of
/// terminal_restore_text; empty for a new session.
std::string terminal_setup_text(const std::string& restore, int last_exit_code);
/// The script that runs `text` and frames what it writes.
std::string terminal_script(const std::string& text);

/// Why a terminal at a prompt with these settings cannot be asked; empty: it can.
std::string why_not_at_prompt(const TerminalModes& modes, const terminal::Screen& screen);

/// Text of the first question: names of variables, the line being edited, prompts, history.
std::string terminal_prompt_query();
/// The answer to it.
struct PromptState {
  std::string names;  // of variables, a line each
  std::string line;
  std::string point;         // where the cursor is in it, as bash counts
  std::string before_point;  // the part of the line up to there
  std::string prompt;        // PS1 and
  std::string next_prompt;   // PS2, as they are shown
  std::vector<std::string> history;
};
/// Errors: NotForkable when the answer is incomplete.
PromptState parse_prompt_state(const std::string& answer);
/// Why the line that is edited is not the first of a command; empty: it is.
std::string why_not_first_prompt(const PromptState& state, const terminal::Screen& screen);

/// Bash text that sets everything in a new shell: `shell` is of restore_text (shell.h); `settings`
/// is what `stty` is to be given, where that is not what a new terminal has.
std::string terminal_restore_text(const std::string& shell, const PromptState& state,
                                  const std::string& settings, const terminal::Screen& screen);
/// From a restore text: the script that puts the line being edited back, if there was one.
std::optional<std::string> restored_line_script(const std::string& restore);

/// Arguments of stty that turn `initial` into `now`, a terminal at readline's prompt: what readline
/// itself changes there is taken from `initial`. Empty: nothing differs.
std::string stty_arguments(const ::termios& initial, ::termios now);

}  // namespace espalier::envs::sandbox
