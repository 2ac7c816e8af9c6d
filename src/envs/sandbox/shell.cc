#include "envs/sandbox/shell.h"

#include <algorithm>
#include <set>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

// Set by bash itself or meaningless in another process.
const std::set<std::string_view> kSpecialVariables = {"_",
                                                      "BASH",
                                                      "BASHOPTS",
                                                      "BASHPID",
                                                      "BASH_ALIASES",
                                                      "BASH_ARGC",
                                                      "BASH_ARGV",
                                                      "BASH_ARGV0",
                                                      "BASH_CMDS",
                                                      "BASH_COMMAND",
                                                      "BASH_EXECUTION_STRING",
                                                      "BASH_LINENO",
                                                      "BASH_LOADABLES_PATH",
                                                      "BASH_REMATCH",
                                                      "BASH_SOURCE",
                                                      "BASH_SUBSHELL",
                                                      "BASH_VERSINFO",
                                                      "BASH_VERSION",
                                                      "BASH_MONOSECONDS",
                                                      "COMP_WORDBREAKS",
                                                      "COLUMNS",
                                                      "DIRSTACK",
                                                      "EPOCHREALTIME",
                                                      "EPOCHSECONDS",
                                                      "EUID",
                                                      "FUNCNAME",
                                                      "GROUPS",
                                                      "HISTCMD",
                                                      "HOSTNAME",
                                                      "HOSTTYPE",
                                                      "LINENO",
                                                      "LINES",
                                                      "MACHTYPE",
                                                      "OSTYPE",
                                                      "PIPESTATUS",
                                                      "PPID",
                                                      "PWD",
                                                      "RANDOM",
                                                      "SECONDS",
                                                      "SHELLOPTS",
                                                      "SHLVL",
                                                      "SRANDOM",
                                                      "UID"};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t end; (end = text.find(separator, start)) != std::string::npos; start = end + 1)
    parts.push_back(text.substr(start, end - start));
  parts.push_back(text.substr(start));
  return parts;
}

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else if (c != '\0') {
      out += c;
    }
  }
  return out + "'";
}

std::vector<std::string> shell_argv() {
  return {"/bin/bash", "--norc", "--noprofile", "-i", "/dev/fd/" + std::to_string(kShellCommandFd)};
}

std::vector<std::string> assignments(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> out;
  for (const auto& [name, value] : variables)
    out.push_back(std::string(name).append("=").append(value));
  return out;
}

std::vector<std::string> environment_strings(
    const std::string& home,
    std::initializer_list<const std::map<std::string, std::string>*> more) {
  std::map<std::string, std::string> all = {
      {"HOME", home},
      {"LC_ALL", "C.UTF-8"},
      {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
      {"TERM", "dumb"}};
  for (const auto* variables : more)
    for (const auto& [name, value] : *variables) all[name] = value;
  return assignments(all);
}

std::string shell_start_line(bool restore) {
  // bash's own remarks about the missing terminal have gone to /dev/null by now.
  std::string line = "exec 2>&1 200<&-;BASH_ARGV0=bash;set +H;shopt -s execfail;";
  if (restore) line += ". /dev/fd/202 >/dev/null 2>&1;";
  return line + "{ builtin printf '0\\n' >&201; } 2>/dev/null\n";
}

std::string shell_command_line(std::string_view command, int last_exit_code,
                               std::string_view output_mark) {
  // After a syntax error bash takes a reserved word at the start of the next line for a plain word,
  // hence the colon; and it counts lines, which a fork or a replay must not change.
  std::string line = ":;LINENO=1;";
  if (last_exit_code == 1) line += "! :;";
  if (last_exit_code > 1)
    line += "__espalier(){ return " + std::to_string(last_exit_code) + "; };__espalier;";
  line += "builtin eval " + quote(command) + (output_mark.empty() ? "" : " 203>&-") +
          " 201>&-;{ builtin printf '%d\\n' \"$?\" >&201;";
  if (!output_mark.empty()) line += "builtin printf %s " + quote(output_mark) + " >&203;";
  if (last_exit_code > 1) line += "unset -f __espalier;";
  // A prompt would report finished jobs and forget them; without it %1 would be a command long
  // over.
  return line + "builtin jobs >&2; } 2>/dev/null\n";
}

std::string shell_query_line(std::string_view text) {
  return ":;{ builtin eval " + quote(text) +
         ";builtin printf '\\0espalier-end\\0'; } >&201 2>/dev/null\n";
}

std::string dump_names_query() { return "builtin compgen -v"; }

std::string dump_state_query(const std::string& names) {
  auto list = split(names, '\n');
  std::sort(list.begin(), list.end());
  // Sections end with a NUL each: checks, directories, then how to set everything again.
  std::string query =
      "[ . -ef \"$PWD\" ]&&builtin printf ok;builtin printf '\\0%s\\0' \"$PWD\";"
      "builtin umask -p;builtin printf '\\0';"
      "builtin printf '%q ' \"$@\";builtin printf '\\0';"
      "builtin alias -p;builtin printf '\\0';"
      "builtin declare -f;builtin printf '\\0';builtin declare -Fx;builtin printf '\\0';"
      "builtin shopt -p;builtin printf '\\0';builtin set +o;builtin printf '\\0';"
      "builtin trap -p;builtin printf '\\0'";
  for (const auto& name : list)
    if (!name.empty() && !kSpecialVariables.count(name))
      query += ";builtin declare -p " + name + ";builtin printf '\\0'";
  return query;
}

std::string restore_text(const std::string& state) {
  enum Section {
    kCheck,
    kDirectory,
    kUmask,
    kArguments,
    kAliases,
    kFunctions,
    kExportedFunctions,
    kShopt,
    kSet,
    kTraps,
    kVariables
  };
  auto parts = split(state, '\0');
  if (parts.size() <= kVariables) throw common::NotForkable("the shell's answer is incomplete");
  if (parts[kCheck] != "ok") throw common::NotForkable("the shell's working directory is gone");
  std::string out = "exec 202<&-\nbuiltin cd -- " + quote(parts[kDirectory]) +
                    "\nbuiltin unset OLDPWD\n" + parts[kUmask];
  if (parts[kArguments] != "'' ") out += "builtin set -- " + parts[kArguments] + "\n";
  // Functions may need an option (extglob) to be parsed, must not meet aliases while they are, and
  // come after the variables they may shadow; options that trace or end the shell come last.
  // BASH_COMPAT says what the options compat… say, and setting one of those sets it.
  for (const auto& line : split(parts[kShopt], '\n'))
    if (!line.empty() && line.find(" compat") == std::string::npos) out += line + "\n";
  for (size_t i = kVariables; i < parts.size(); ++i) out += parts[i];
  out += parts[kFunctions];
  for (const auto& line : split(parts[kExportedFunctions], '\n'))
    if (line.rfind("declare -fx ", 0) == 0) out += "builtin export -f " + line.substr(12) + "\n";
  return out + parts[kTraps] + parts[kAliases] + parts[kSet];
}

}  // namespace espalier::envs::sandbox
