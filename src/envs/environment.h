// The environment contract: one live terminal that can be run, forked, snapshotted and verified.
//
// Every backend passes the conformance suite in tests/envs/conformance_test.cc. Operations are
// asynchronous: they return at once and call their completion exactly once, on the backend's
// reactor thread. At most one operation of an environment is in progress at a time; the caller sees
// to that. Destroying an environment ends everything in it (processes, mounts, limits) without
// blocking.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace espalier::envs {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
template <class T>
using Completion = common::Completion<T>;

/// What the environment did with one command line (or script) given to its shell.
struct Observation {
  std::string
      output;  // stdout and stderr interleaved as written; head and tail kept past the limit
  size_t output_bytes = 0;  // bytes produced before truncation
  int exit_code = 0;        // of the command; 128 + signal when killed
  bool timed_out = false;   // the deadline passed: the command was killed
  bool shell_exited =
      false;                // the session's shell is gone (`exit`, killed, exec): no further run()
  int64_t duration_us = 0;  // wall clock; never part of an identity
};

/// How a second environment came to be; recorded in the trace. proxy: the session is copied live,
/// and the program below its shell is rebuilt under the copy.
enum class ForkKind { live, proxy, criu, value };
const char* to_string(ForkKind kind);

/// Limits of one environment. Zero means "none".
struct Limits {
  size_t memory_bytes = size_t{256} << 20;
  size_t disk_bytes = size_t{64} << 20;  // all files written since the last fork
  size_t disk_inodes = 20000;
  int pids = 64;
  double cpus = 1.0;
  size_t output_bytes = size_t{16} << 10;  // kept of one command's output: half head, half tail
};

struct TerminalSize {
  int columns = 160;
  int rows = 40;
};

/// Keys for a terminal session, and how long to watch what they do.
struct Typing {
  std::string keys;                         // bytes, as the terminal would send them
  std::chrono::milliseconds at_most{1000};  // the view is taken then at the latest
  std::chrono::milliseconds quiet{0};       // … or after this long without output; 0: not before
  std::optional<TerminalSize> size = {};    // that the terminal is given first; none: as it is
};

/// What a terminal shows.
struct TerminalView {
  std::string screen;  // the rows, joined by newlines, without blanks at their ends
  int cursor_row = 0;
  int cursor_column = 0;
  std::string output;       // bytes written since the last view; head and tail kept past the limit
  size_t output_bytes = 0;  // before truncation
  bool session_ended = false;
  int exit_code = 0;  // of the session, once it has ended
  int64_t duration_us = 0;
};

inline constexpr const char* kHostImage = "host";  // this machine's own root, masked
inline constexpr const char* kDefaultWorkdir = "/app";

/// What to start: an image, files laid into the working directory, limits.
struct EnvironmentSpec {
  std::string image = kHostImage;  // other names: docs/sandbox.md
  std::filesystem::path files;     // directory copied (modes kept) into workdir; empty: none
  std::string workdir;             // owned by the session's user; empty: the image's own
  std::map<std::string, std::string> variables;  // added to a minimal fixed environment
  Limits limits;
  bool network = false;                  // only ever true when task and config both allow it
  bool root = false;                     // the session's user is the sandbox's root, not the agent
  std::vector<std::string> session;      // the program that is the session; empty: bash
  std::optional<TerminalSize> terminal;  // the session has one: type() takes the place of run()
};

/// A process beside the session's shell: the verifier, a solution script. Runs with a clean
/// environment and its own stdio; its output is captured like a command's.
struct ExecSpec {
  std::vector<std::string> argv;
  std::string cwd;       // empty: the environment's workdir
  bool as_root = false;  // the sandbox's root (no privilege outside); else the agent's user
  std::map<std::string, std::string> variables;
};

/// Names a durable state: `<sha256 hex>` of its content. Opened again by Backend::open.
struct SnapshotId {
  std::string hex;
  bool operator==(const SnapshotId&) const = default;
};

class Environment;
using EnvironmentPtr = std::unique_ptr<Environment>;

struct Fork {
  EnvironmentPtr child;
  ForkKind kind = ForkKind::value;
  int64_t duration_us = 0;
};

/// How a task's result is judged: its tests directory and the verifier's own deadline.
struct VerifierSpec {
  std::filesystem::path tests;  // holds test.sh; uploaded to /tests only when verify() is called
  double timeout_s = 600.0;
  std::map<std::string, std::string> variables;
};

/// The verifier's answer. Exactly one of reward and failure is set: a missing or unreadable reward
/// is a failure with Harbor's exception name, never reward 0.
struct Verdict {
  std::optional<double> reward;
  std::string failure;  // "RewardFileNotFoundError", "VerifierTimeoutError", …
  std::string output;   // what test.sh printed, truncated
  int64_t duration_us = 0;
};

class Environment {
 public:
  virtual ~Environment() = default;

  /// Runs a command in the session's bash, which keeps cwd, variables, functions and options
  /// between calls. stdin is /dev/null. A timeout kills the command, not the session; if the shell
  /// itself cannot be had back it is killed too (shell_exited). Errors: SandboxError when the
  /// sandbox broke.
  virtual void run(std::string command, Deadline deadline, Completion<Observation> done) = 0;

  /// Types keys into the session's terminal and shows what came of them. Errors: SandboxError when
  /// the environment has no terminal (the default), or broke.
  virtual void type(Typing typing, Completion<TerminalView> done);

  /// Brings the deadline of the command that run() is executing forward to now: it ends as timed
  /// out. No effect when there is none, and in backends that cannot. Any thread may call it.
  virtual void interrupt() {}

  /// A second live environment in the same state; both go on independently. To keep a state for
  /// later forks, keep an environment and run nothing in it: of a live fork the further children
  /// share what is frozen, and take next to nothing until something is done in them. Errors:
  /// NotForkable, with the reason, when something could not be carried over — the environment
  /// itself is then unharmed.
  virtual void fork(Completion<Fork> done) = 0;

  /// Writes the state down durably (files and shell state by value). Errors: as fork().
  virtual void snapshot(Completion<SnapshotId> done) = 0;

  /// Runs a process beside the shell and waits for its end.
  virtual void exec(ExecSpec spec, Deadline deadline, Completion<Observation> done) = 0;

  /// Writes a file as the sandbox's root, making parent directories. The path is resolved inside.
  virtual void put_file(std::string path, std::string content, unsigned mode,
                        Completion<common::Done> done) = 0;

  /// Puts a copy of the host directory `from` (empty path: an empty directory), owned by the
  /// sandbox's root, in the place of whatever is at `path`. The default is built on exec and
  /// put_file.
  virtual void put_tree(std::string path, const std::filesystem::path& from,
                        Completion<common::Done> done);

  /// Reads at most max_bytes of a regular file; symlinks never lead outside. nullopt: no such file.
  virtual std::optional<std::string> read_file(const std::string& path, size_t max_bytes) = 0;

  /// Uploads the tests, runs /tests/test.sh (its exit code is ignored), reads
  /// /logs/verifier/reward.json or reward.txt. Built on put_tree, exec and read_file:
  /// envs/verifier.cc.
  void verify(const VerifierSpec& spec, Completion<Verdict> done);
};

/// Makes environments of one kind. Thread contract: all methods may be called from any thread.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual void create(EnvironmentSpec spec, Completion<EnvironmentPtr> done) = 0;
  /// Makes a snapshot live again, in this process or a later one. Errors: StoreError, SandboxError.
  virtual void open(SnapshotId snapshot, Completion<EnvironmentPtr> done) = 0;
  virtual size_t live_environments() const = 0;
};

}  // namespace espalier::envs
