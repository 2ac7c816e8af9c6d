// How the trainer talks to a sandbox's bash, and how a shell's state is written down and set again.
//
// bash runs as `bash -i /dev/fd/200`: its script is a pipe, into which a line goes for each
// command. So commands are evaluated at the top level (break, return and declare mean what they
// mean at a prompt), errors read as at a prompt, and errors that end a script do not end the
// session.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace espalier::envs::sandbox {

inline constexpr int kShellCommandFd = 200;  // bash's script; closed once bash has opened it
inline constexpr int kShellStatusFd = 201;   // exit codes and answers to queries
inline constexpr int kShellStateFd = 202;    // the state to start from, where there is one
// Where output and exit codes come by different ways: a second descriptor of the output.
inline constexpr int kShellMarkFd = 203;
inline constexpr std::string_view kQueryEnd{"\0espalier-end\0", 14};

std::vector<std::string> shell_argv();

/// "NAME=value" of each.
std::vector<std::string> assignments(const std::map<std::string, std::string>& variables);

/// "NAME=value" of the minimal fixed environment, then of each map; later ones win.
std::vector<std::string> environment_strings(
    const std::string& home, std::initializer_list<const std::map<std::string, std::string>*> more);

/// First line of a session; ends with a status of 0.
std::string shell_start_line(bool restore);
/// Runs command with $? as the previous one left it, then reports its exit code; then writes
/// output_mark, where there is one, to kShellMarkFd.
std::string shell_command_line(std::string_view command, int last_exit_code,
                               std::string_view output_mark = {});
/// Runs text with descriptor 1 as the status pipe, then writes kQueryEnd.
std::string shell_query_line(std::string_view text);

/// In single quotes, for bash.
std::string quote(std::string_view text);

/// Text of the first query of a dump: the names of all variables.
std::string dump_names_query();
/// Text of the second query, from the answer to the first.
std::string dump_state_query(const std::string& names);
/// From the answer to the second query: bash text that sets the state in a new shell of the same
/// kind. The same state gives the same text. Errors: NotForkable when the state cannot be carried
/// over.
std::string restore_text(const std::string& state);

}  // namespace espalier::envs::sandbox
