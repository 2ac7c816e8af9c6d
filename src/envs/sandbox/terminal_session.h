// The trainer's end of a session's terminal: what is typed into it, what it shows.
#pragma once

#include <termios.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "envs/environment.h"
#include "envs/reactor.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/output_buffer.h"
#include "envs/terminal/screen.h"

namespace espalier::envs::sandbox {

/// The line settings (stty) and the size of a terminal, read and set through its master.
struct TerminalModes {
  ::termios settings{};
  TerminalSize size;
  /// Errors: SandboxError.
  static TerminalModes of(const Fd& master);
  void apply(const Fd& master) const;
};

/// Thread contract: the reactor's thread. Reads whenever the session writes, at most 16 KiB an
/// event, so that a flood leaves the reactor its turns.
class TerminalSession {
 public:
  /// Takes the master (non-blocking). A fork gives the screen of the session it comes from; a new
  /// session gives a new one.
  TerminalSession(Reactor* reactor, Fd master, terminal::Screen screen, size_t output_limit_bytes);
  ~TerminalSession();
  TerminalSession(const TerminalSession&) = delete;
  TerminalSession& operator=(const TerminalSession&) = delete;

  /// Errors of done: SandboxError when more than 16 MiB wait to be taken by the session.
  void type(Typing typing, Completion<TerminalView> done);
  /// Takes the view of the type() in progress now.
  void look();
  /// The session's program has ended; what it wrote is still shown.
  void ended(int exit_code);
  /// Nothing works any more: what is in progress ends with this error.
  void fail(std::exception_ptr error);
  void resize(TerminalSize size);

  /// Of what the session writes from now on only what `filter` returns (a part of its argument) is
  /// shown and reported. Null: all.
  using Filter = std::function<std::string_view(std::string_view)>;
  void listen(Filter filter) { filter_ = std::move(filter); }
  /// Writes bytes to the session as type() does, without a view.
  void send(std::string_view bytes);

  /// Reads all that was written before the call. Of a stopped session this leaves nothing behind.
  void drain();
  const terminal::Screen& screen() const { return screen_; }
  void set_screen(terminal::Screen screen) { screen_ = std::move(screen); }
  /// Takes over from the terminal of the session this one's is a copy of: screen, output that was
  /// not seen yet, keys that were not taken.
  void continue_from(const TerminalSession& other);
  bool has_ended() const { return exit_code_.has_value(); }
  /// Keys that the session has not taken yet.
  const std::string& untaken() const { return untaken_; }
  const Fd& master() const { return master_; }
  /// Shows bytes that the session did not write.
  void draw(std::string_view bytes) { screen_.feed(bytes); }
  /// Forgets what was written since the last view.
  void forget_output() { output_.take(); }

 private:
  struct Watching {
    Completion<TerminalView> done;
    Clock::time_point started;
    Clock::time_point at_latest;
    std::chrono::milliseconds quiet;
    Clock::time_point last_activity;
    std::optional<Reactor::TimerId> timer;
  };

  bool read_some(size_t reads);
  void take(std::string_view bytes);
  void flush();
  void watch();
  void unwatch();
  void on_ready(uint32_t events);
  void set_timer();
  void on_timer();
  TerminalView view();

  Reactor* reactor_;
  Fd master_;
  bool watched_ = false;
  terminal::Screen screen_;
  OutputBuffer output_;
  std::string untaken_;
  Filter filter_;
  std::optional<Watching> watching_;
  std::optional<int> exit_code_;  // once the session has ended
};

}  // namespace espalier::envs::sandbox
