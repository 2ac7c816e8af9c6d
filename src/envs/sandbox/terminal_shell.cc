#include "envs/sandbox/terminal_shell.h"

#include "envs/sandbox/shell.h"

namespace espalier::envs::sandbox {

std::vector<std::string> terminal_shell_argv() { return {"bash", "--norc", "--noprofile", "-i"}; }

std::string terminal_setup_text(const std::string& restore) {
  std::string out = "exec " + std::to_string(kShellStateFd) +
                    "<&-\n"
                    "builtin unset PROMPT_COMMAND\n"
                    "PS1='\\u@\\h:\\w\\$ '\n";
  return out + restore + "builtin printf '\\033]espalier;ready\\033\\\\'\n";
}

}  // namespace espalier::envs::sandbox
