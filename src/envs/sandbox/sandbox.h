// One running sandbox: its init, its shell, the pipes to them, and the commands that pass through.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "envs/environment.h"
#include "envs/sandbox/core.h"
#include "envs/sandbox/network.h"
#include "envs/sandbox/output_buffer.h"
#include "envs/sandbox/terminal_session.h"

namespace espalier::envs::sandbox {

/// What a sandbox is started from.
struct SandboxSeed {
  EnvironmentSpec spec;
  std::vector<LayerPtr> layers;  // topmost first, the skeleton left out
  bool leave_out_empty = false;  // the topmost, should nothing be in it
  size_t image_layers = 0;       // how many of the lowest are the image's; 0: the skeleton is below
  std::string base;              // identity of the image
  std::string restore;           // bash text that sets a dumped shell state; empty: a new session
  int last_exit_code = 0;        // what $? shows to the first command
  // What a restored terminal shows, where the one it comes from is at hand.
  std::shared_ptr<const terminal::Screen> screen;
};

/// Keeps a frozen sandbox, whose process namespace its copies live in, until the last of them is
/// gone; then it is killed. May be destroyed on any thread.
class Origin {
 public:
  explicit Origin(std::shared_ptr<Sandbox> sandbox) : sandbox_(std::move(sandbox)) {}
  ~Origin();
  Origin(const Origin&) = delete;
  Origin& operator=(const Origin&) = delete;
  const std::shared_ptr<Sandbox>& sandbox() const { return sandbox_; }
  /// Programs below the session are rebuilt below its copies.
  void rebuilds() { kind_ = ForkKind::proxy; }
  ForkKind kind() const { return kind_; }
  /// The sandbox has been thawed: it lives on without this.
  void let_go() { sandbox_.reset(); }
  /// One more environment has nothing but what is frozen. On the reactor's thread, as leave().
  void rest() { ++resting_; }
  /// It has a copy of its own or is gone. After the last the frozen session is not needed any more.
  void leave();

 private:
  std::shared_ptr<Sandbox> sandbox_;
  size_t resting_ = 0;
  ForkKind kind_ = ForkKind::live;
};
using OriginPtr = std::shared_ptr<Origin>;

struct FreezeAnswer {
  uint32_t outcome = 0;  // wire::FreezeOutcome
  std::string why;       // not frozen
};

struct Inspection {
  int other_processes = 0;
  std::string shell_busy;  // why the shell cannot be written down; empty: it can
};

/// Thread contract: the reactor's thread. Kept alive by the backend until its processes are gone.
class Sandbox : public std::enable_shared_from_this<Sandbox> {
 public:
  /// Errors of done: SandboxError.
  static void start(const std::shared_ptr<Core>& core, SandboxSeed seed,
                    Completion<std::shared_ptr<Sandbox>> done);
  /// A sandbox with a copy of the session that is frozen in `origin`. Errors of done: SandboxError.
  static void start_copy(const std::shared_ptr<Core>& core, SandboxSeed seed, OriginPtr origin,
                         Completion<std::shared_ptr<Sandbox>> done);
  ~Sandbox();

  /// Stops the session where it is, for good: from now on it can be copied, and nothing else. When
  /// the outcome is not kFrozen, it goes on unharmed.
  void freeze(Completion<FreezeAnswer> done);
  /// Lets a frozen session go on. Errors: SandboxError, when there is a copy of it.
  void thaw(Completion<common::Done> done);
  /// The frozen session is not copied any more; its memory is given up.
  void release();
  /// Of live forks between this sandbox and one that was started.
  uint32_t depth() const { return depth_; }

  const std::shared_ptr<Core>& core() const { return core_; }
  const SandboxSeed& seed() const { return seed_; }
  const LayerPtr& upper() const { return upper_; }
  /// Other layers that show the same: what starts from here starts over those.
  void set_layers(std::vector<LayerPtr> layers) {
    mounted_.insert(mounted_.end(), seed_.layers.begin(), seed_.layers.end());
    seed_.layers = std::move(layers);
  }
  int last_exit_code() const { return last_exit_code_; }
  void set_last_exit_code(int code) { last_exit_code_ = code; }
  /// Called when nothing works any more; null: nobody is.
  void on_failure(std::function<void(std::exception_ptr)> failed) { failed_ = std::move(failed); }

  void run(std::string command, Deadline deadline, Completion<Observation> done);
  void type(Typing typing, Completion<TerminalView> done);
  /// Null without a terminal, and until the session has started.
  TerminalSession* terminal() const { return terminal_.get(); }
  /// Runs text in the shell that writes its answer to descriptor 201, and gives the answer.
  void query(std::string text, Completion<std::string> done);
  void interrupt();
  void exec(ExecSpec spec, Deadline deadline, Completion<Observation> done);
  void put(std::string path, bool replace, Fd pack, Completion<common::Done> done);
  void inspect(Completion<Inspection> done);
  /// May be called from any thread while the caller holds a reference.
  std::optional<std::string> read_file(const std::string& path, size_t max_bytes) const;

  /// Of a started one: whether the seed's topmost layer was left out.
  bool left_out_empty() const { return left_out_empty_; }

  /// Kills everything; `gone` (may be null) is called when the last process is. What is in progress
  /// fails with Cancelled.
  void kill(std::function<void()> gone);

 private:
  enum class Mode { command, query };
  /// The command or query the shell is executing.
  struct Running {
    Mode mode;
    Completion<Observation> done;
    Completion<std::string> answered;
    Clock::time_point started;
    std::optional<Reactor::TimerId> timer;
    bool timed_out = false;
    bool finishing = false;
  };
  struct Process {
    Completion<Observation> done;
    Fd output;
    OutputBuffer buffer;
    Clock::time_point started;
    std::optional<Reactor::TimerId> timer;
    bool timed_out = false;
  };
  using Answer = std::function<void(common::Result<wire::InitReply>)>;

  Sandbox(std::shared_ptr<Core> core, SandboxSeed seed);
  void spawn(Completion<std::shared_ptr<Sandbox>> done);
  void request_spawn(std::vector<Fd> more, int32_t shell_pid, uint64_t shell_output,
                     wire::TerminalShape shape);
  void start_shell();
  void start_terminal();
  void terminal_started(const wire::InitReply& reply);
  void raise_curtain();
  void await_prompt();
  void terminal_ready();
  void give_to_user(const Pipe& command, const Pipe& output) const;
  void take_pipes(Pipe command, Pipe output, Pipe status);
  void await_start();
  void spawn_copy(Completion<std::shared_ptr<Sandbox>> done);
  void spawn_terminal_copy(Completion<std::shared_ptr<Sandbox>> done);
  void continue_terminal();
  void request_copy(std::vector<Fd> fds);
  void session_copied(pid_t outer_pid, pid_t pid_at_first);
  void session_reaped(pid_t pid, int wait_status);
  void watch_descriptors();
  void started_with(SpawnerReplyFds reply);
  void maybe_started();
  void connect_network();
  bool shares_networks() const;

  void send_line(std::string line);
  void flush_command();
  void abandon_command();
  void on_output(uint32_t events);
  void drain_output();
  void on_status(uint32_t events);
  void on_status_text();
  void finish(int exit_code, bool shell_exited);
  void shell_ended(int wait_status);
  void on_deadline();
  void kill_command(int attempt);

  uint32_t send_init(std::string message, std::vector<int> fds, Answer answer);
  void on_control(uint32_t events);
  void on_init_reply(const wire::InitReply& reply);
  void process_ended(uint32_t ticket, int wait_status);
  void fail(const std::string& why);
  void on_reaped();

  std::shared_ptr<Core> core_;
  SandboxSeed seed_;
  std::vector<LayerPtr> mounted_;  // below this sandbox, though no longer in the seed
  LayerPtr upper_;
  std::unique_ptr<Cradle> cradle_;
  uint32_t depth_ = 0;
  OriginPtr origin_;  // of a copied session
  std::shared_ptr<Sandbox>
      first_;  // the started one of its line: its init has all copies for children
  bool left_out_empty_ = false;
  bool holding_ = false;  // this one's init reports the ends of copies
  std::unordered_map<pid_t, std::weak_ptr<Sandbox>> copies_;
  std::unordered_map<pid_t, int> reaped_;   // before it was known whose session they were
  std::unique_ptr<PublicNetwork> network_;  // where the task has one
  bool network_up_ = false;
  Fd control_, command_, output_, status_, pidfd_, root_;
  Fd isolated_network_;  // where the task has none
  Completion<std::shared_ptr<Sandbox>> started_;
  Fd received_fd_;  // came with the message from init that is being handled
  bool shell_ready_ = false;
  std::unique_ptr<TerminalSession> terminal_;
  Fd copied_terminal_;  // of a copied session, until it has started
  std::optional<Reactor::TimerId> start_timer_;
  std::function<void(std::exception_ptr)> failed_;
  std::string command_pending_;
  std::string status_text_;
  OutputBuffer output_buffer_;
  std::optional<Running> running_;
  std::unordered_map<uint32_t, Process> processes_;
  std::unordered_map<uint32_t, Answer> answers_;
  uint32_t next_ticket_ = 1;
  uint32_t shell_ticket_ = 0;
  pid_t shell_pid_ = 0;              // as the sandbox's init sees it
  pid_t outer_pid_ = 0;              // of a copied session, as the spawner sees it
  std::optional<int> shell_status_;  // set when the shell has ended
  int last_exit_code_ = 0;
  std::string broken_;  // why nothing works any more
  bool killed_ = false;
  std::function<void()> gone_;
};

}  // namespace espalier::envs::sandbox
