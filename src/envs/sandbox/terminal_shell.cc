#include "envs/sandbox/terminal_shell.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/shell.h"

namespace espalier::envs::sandbox {
namespace {

constexpr std::string_view kLineMark = "#espalier-line ";

/// $'…' of any bytes but NUL, in printable ASCII: control characters would mean something to the
/// terminal on their way.
std::string quote_bytes(std::string_view bytes) {
  std::string out = "$'";
  for (unsigned char c : bytes) {
    if (c == '\'' || c == '\\') {
      out += {'\\', char(c)};
    } else if (c >= 0x20 && c < 0x7f) {
      out += char(c);
    } else if (c != 0) {
      char code[8];
      std::snprintf(code, sizeof code, "\\%03o", c);
      out += code;
    }
  }
  return out + "'";
}

/// What a prompt leaves on an empty terminal.
terminal::Screen shown_prompt(const std::string& prompt, TerminalSize size) {
  terminal::Screen screen(size);
  for (char c : prompt) {
    if (c == '\n') screen.feed("\r");
    if (c != '\001' && c != '\002') screen.feed({&c, 1});
  }
  return screen;
}

/// Restored while bash starts, history would take up the lines that restore the rest; bash turns it
/// on itself.
std::string without_history_option(std::string shell) {
  const std::string option = "\nset -o history\n";
  size_t at = shell.rfind(option);
  if (at != std::string::npos) shell.erase(at, option.size() - 1);
  return shell;
}

}  // namespace

std::vector<std::string> terminal_shell_argv(bool restore) {
  // After a start-up file, and only then, $? is what its last command left.
  if (!restore) return {"/bin/bash", "--norc", "--noprofile", "-i"};
  return {"/bin/bash", "--noprofile", "--rcfile", "/dev/fd/" + std::to_string(kShellStateFd), "-i"};
}

std::string terminal_setup_text(const std::string& restore, int last_exit_code) {
  std::string out = "exec " + std::to_string(kShellStateFd) +
                    "<&-\nbuiltin unset PROMPT_COMMAND\nBASH_ARGV0=bash\n";
  for (const char* keymap : {"emacs-standard", "vi-insert", "vi-command"})
    out += std::string("builtin bind -m ") + keymap +
           " -x '\"\\e[9999~\":{ builtin printf \"\\033]espalier;ask;%d\\033\\134\" $?;"
           "IFS= builtin read -rsd \"\" __espalier;builtin eval \"$__espalier\"; } 2>/dev/null'\n";
  const std::string ready = "builtin printf '\\033]espalier;ready\\033\\134'\n";
  if (restore.empty()) return out + "PS1='\\u@\\h:\\w\\$ '\n" + ready;
  // Debian's bash has read its system-wide file by now.
  out += "builtin unset -f command_not_found_handle\nbuiltin unalias -a\n" + restore;
  bool ends_on_error = restore.find("set -o errexit\n") != std::string::npos;
  if (last_exit_code != 0 && !ends_on_error)
    out += "(builtin exit " + std::to_string(last_exit_code) + ")\n";
  return out;
}

std::string terminal_script(const std::string& text) {
  return "builtin unset __espalier;builtin printf '\\033]espalier;answer\\033\\134';" + text +
         ";builtin printf '\\033]espalier;done\\033\\134'";
}

std::string why_not_at_prompt(const TerminalModes& modes, const terminal::Screen& screen) {
  const ::termios& t = modes.settings;
  if (t.c_lflag & (ICANON | ECHO) || t.c_iflag & ICRNL) return "bash is not at its prompt";
  if (t.c_oflag & OPOST &&
      (t.c_oflag & (OLCUC | OCRNL | ONOCR | ONLRET) || (t.c_oflag & TABDLY) == TAB3))
    return "the terminal changes what is written to it";
  if (screen.row(screen.cursor_row()).find("-i-search)") != std::string::npos)
    return "bash is searching its history";
  if (screen.alternate()) return "the alternate screen is shown";
  return "";
}

std::string terminal_prompt_query() {
  // fc says what it is asked for and no more, but takes the last entry for itself.
  return "builtin compgen -v;builtin printf '\\0%s\\0%s\\0%s\\0%s\\0%s\\0' \"$READLINE_LINE\" "
         "\"$READLINE_POINT\" \"${READLINE_LINE:0:READLINE_POINT}\" \"${PS1@P}\" \"${PS2@P}\";"
         "__espalier=$(HISTTIMEFORMAT= builtin history);"
         "__espalier=${__espalier#\"${__espalier%%[! ]*}\"};"
         "__espalier=${__espalier%%[!0-9]*};"
         "__espalier_end=$(HISTTIMEFORMAT= builtin history 1);"
         "__espalier_end=${__espalier_end#\"${__espalier_end%%[! ]*}\"};"
         "__espalier_end=${__espalier_end%%[!0-9]*};"
         "if [[ $__espalier ]];then for((;__espalier<__espalier_end;++__espalier));do "
         "builtin fc -ln $__espalier $__espalier;builtin printf '\\0';done;"
         "HISTTIMEFORMAT= builtin history 1;builtin printf '\\0';fi;"
         "builtin unset __espalier __espalier_end";
}

PromptState parse_prompt_state(const std::string& answer) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t end; (end = answer.find('\0', start)) != std::string::npos; start = end + 1)
    parts.push_back(answer.substr(start, end - start));
  if (parts.size() < 6) throw common::NotForkable("not forkable: the shell's answer is incomplete");
  PromptState out;
  for (size_t at = 0, end; (end = parts[0].find('\n', at)) != std::string::npos; at = end + 1) {
    std::string name = parts[0].substr(at, end - at);
    if (name.rfind("READLINE_", 0) != 0 && name.rfind("__espalier", 0) != 0)
      out.names += name + "\n";
  }
  out.line = parts[1];
  out.point = parts[2];
  out.before_point = parts[3];
  out.prompt = parts[4];
  out.next_prompt = parts[5];
  for (size_t i = 6; i < parts.size(); ++i) {
    // "\t entry\n"; the last "  NUMBER  entry\n"
    bool last = i + 1 == parts.size();
    size_t number = last ? parts[i].find_first_not_of(' ') : 0;
    size_t at = last ? parts[i].find_first_not_of("0123456789", number) : 0;
    if (at != std::string::npos && parts[i].size() > at + 2)
      out.history.push_back(parts[i].substr(at + 2, parts[i].size() - at - 3));
  }
  return out;
}

std::string why_not_first_prompt(const PromptState& state, const terminal::Screen& screen) {
  terminal::Screen first = shown_prompt(state.prompt, screen.size());
  terminal::Screen next = shown_prompt(state.next_prompt, screen.size());
  int prompt_row = first.cursor_row();
  std::string wanted = first.row(prompt_row);
  if (wanted.empty() || wanted == next.row(next.cursor_row()))
    return "bash's prompt does not tell a new command from one that goes on";
  first.feed(state.before_point + " \b");  // readline leaves a full row at once
  int row = screen.cursor_row() - (first.cursor_row() - prompt_row);
  bool stands = row >= 0 && screen.row(row).rfind(wanted, 0) == 0;
  return stands ? "" : "bash waits for more of a command";
}

std::string terminal_restore_text(const std::string& shell, const PromptState& state,
                                  const std::string& settings, const terminal::Screen& screen) {
  std::string out;
  if (!state.line.empty())
    out += std::string(kLineMark) + state.point + " " + quote_bytes(state.line) + "\n";
  out += "builtin history -c\n";
  for (const std::string& entry : state.history)
    out += "builtin history -s -- " + quote_bytes(entry) + "\n";
  if (!settings.empty()) out += "stty " + settings + "\n";
  out += "builtin printf '\\033]espalier;ready\\033\\134'\nbuiltin printf %s " +
         quote_bytes(screen.redraw()) + "\nbuiltin printf '\\033]espalier;curtain\\033\\134'\n";
  return out + without_history_option(shell);
}

std::optional<std::string> restored_line_script(const std::string& restore) {
  if (restore.rfind(kLineMark, 0) != 0) return std::nullopt;
  size_t point = kLineMark.size(), line = restore.find(' ', point) + 1;
  return "READLINE_LINE=" + restore.substr(line, restore.find('\n') - line) +
         ";READLINE_POINT=" + restore.substr(point, line - 1 - point);
}

std::string stty_arguments(const ::termios& initial, ::termios now) {
  now.c_lflag =
      (now.c_lflag & ~tcflag_t(ICANON | ECHO | ISIG)) | (initial.c_lflag & (ICANON | ECHO | ISIG));
  now.c_iflag =
      (now.c_iflag & ~tcflag_t(ICRNL | INLCR | IXON)) | (initial.c_iflag & (ICRNL | INLCR | IXON));
  for (int special : {VMIN, VTIME, VLNEXT, VDISCARD}) now.c_cc[special] = initial.c_cc[special];
  if (now.c_iflag == initial.c_iflag && now.c_oflag == initial.c_oflag &&
      now.c_cflag == initial.c_cflag && now.c_lflag == initial.c_lflag &&
      std::memcmp(now.c_cc, initial.c_cc, sizeof now.c_cc) == 0)
    return "";
  char text[16];
  std::string out;
  for (tcflag_t flags : {now.c_iflag, now.c_oflag, now.c_cflag, now.c_lflag}) {
    std::snprintf(text, sizeof text, "%x:", flags);
    out += text;
  }
  for (size_t i = 0; i < sizeof now.c_cc; ++i) {
    std::snprintf(text, sizeof text, i ? ":%x" : "%x", now.c_cc[i]);
    out += text;
  }
  return out;
}

}  // namespace espalier::envs::sandbox
