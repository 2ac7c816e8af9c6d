// The session of a container: a bash beside its pid 1 that keeps its state between commands, over
// one attached exec of the engine.
//
// bash gets its script through the exec's standard input; exit codes and answers go out by standard
// error, output by standard output (sandbox/shell.h). The engine carries the two by different ways,
// so a mark in the output says where a command's ends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "envs/container/stream.h"
#include "envs/environment.h"
#include "envs/sandbox/output_buffer.h"

namespace espalier::envs::container {

/// Command line of the session.
std::vector<std::string> session_argv();
/// Command line that runs argv as a process beside the shell: stdin /dev/null, output as a
/// session's, then its exit code and the mark.
std::vector<std::string> exec_argv(const std::vector<std::string>& argv, const std::string& mark);
/// A text that no output holds.
std::string new_mark();

/// Tells output from the mark at its end, wherever the pieces are cut.
class MarkedOutput {
 public:
  MarkedOutput(std::string mark, size_t limit_bytes)
      : mark_(std::move(mark)), buffer_(limit_bytes) {}
  void append(std::string_view bytes);
  bool ended() const { return ended_; }
  /// Moves what was kept into the observation.
  void take(Observation* observation);

 private:
  std::string mark_;
  std::string held_;  // may be the beginning of the mark
  sandbox::OutputBuffer buffer_;
  bool ended_ = false;
};

/// Thread contract: one operation at a time; interrupt(), arm() and shut() from any thread.
class Session {
 public:
  struct Engine {
    /// Kills the processes beside pid 1 and, unless `shell_too`, the shell. May throw SandboxError.
    std::function<void(bool shell_too)> kill;
    /// Kills all of it at once, the container included.
    std::function<void()> end;
    /// The shell's exit code; nullopt: it runs. Errors: SandboxError when the container does not.
    std::function<std::optional<int>()> exit_code;
  };
  struct Facts {
    std::string shell_pid, uid, gid;
  };

  /// Waits until bash answers. `restore` sets a dumped state. Errors: SandboxError.
  Session(common::HttpUpgrade upgrade, size_t output_limit_bytes, const std::string& restore,
          int last_exit_code);

  const Facts& facts() const { return facts_; }
  int last_exit_code() const { return last_exit_code_; }
  bool ended() const { return ended_; }

  /// Goes to the directory, as a session's first. Errors: SandboxError.
  void enter(const std::string& directory);
  /// Errors: SandboxError when the shell is gone already or the container is.
  Observation run(const std::string& command, Deadline deadline, const Engine& engine);
  /// Bash text that sets the shell's state anew. Errors: NotForkable.
  std::string dump();

  void arm() { interrupted_ = false; }  // before a command that may be interrupted
  void interrupt();
  void shut() { stream_.shut(); }

 private:
  /// What is known of the command in progress.
  struct Progress;

  std::string query(std::string_view text, Clock::duration time);
  std::string ask(const std::string& line, Clock::duration time);
  void inspect();
  void wait_for_status(Deadline deadline);
  bool take_status(Progress* progress);
  void on_deadline(Progress* progress, const Engine& engine);
  bool shell_is_gone(Progress* progress, const Engine& engine);

  Stream stream_;
  size_t output_limit_bytes_;
  Facts facts_;
  std::string usual_descriptors_;  // of a shell that nothing is redirected in
  std::string status_;             // what has come by standard error
  int last_exit_code_ = 0;
  bool ended_ = false;
  std::atomic<bool> interrupted_{false};
};

}  // namespace espalier::envs::container
