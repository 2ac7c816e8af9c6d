// Sandboxes whose session has a terminal: its start, and what is typed into it.
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/shell.h"
#include "envs/sandbox/terminal_shell.h"
#include "envs/sandbox/terminal_value.h"

namespace espalier::envs::sandbox {
namespace {

constexpr auto kPromptPause = std::chrono::microseconds(300);

}  // namespace

/// The request waits in the socket until init is there.
void Sandbox::start_terminal() {
  const EnvironmentSpec& spec = seed_.spec;
  wire::TerminalShape shape{uint16_t(spec.terminal->columns), uint16_t(spec.terminal->rows)};
  bool bash = spec.session.empty(), restored = !seed_.restore.empty();
  std::vector<int> fds, targets;
  Fd setup;
  std::map<std::string, std::string> before = {{"TERM", "xterm-256color"}}, after;
  if (bash) {
    setup =
        make_memory_file("shell-setup", terminal_setup_text(seed_.restore, seed_.last_exit_code));
    fds.push_back(setup.get());
    targets.push_back(kShellStateFd);
    if (!restored) after["PROMPT_COMMAND"] = ". /dev/fd/" + std::to_string(kShellStateFd);
  }
  auto env =
      environment_strings(spec.root ? "/root" : "/home/agent", {&before, &spec.variables, &after});
  uint32_t flags =
      wire::kExecShell | wire::kExecTerminal | (spec.root ? uint32_t{wire::kExecAsRoot} : 0);
  auto argv = bash ? terminal_shell_argv(restored) : spec.session;
  std::string message =
      exec_message(flags, targets, restored ? "/" : spec.workdir, argv, env, shape);
  auto self = shared_from_this();
  shell_ticket_ = send_init(std::move(message), fds, [self](common::Result<wire::InitReply> r) {
    if (r.ok()) self->terminal_started(r.value());
  });
  await_start();
}

void Sandbox::terminal_started(const wire::InitReply& reply) {
  const EnvironmentSpec& spec = seed_.spec;
  if (reply.error || !received_fd_) {
    std::string program = spec.session.empty() ? "bash" : spec.session.front();
    return fail("start " + program + " on a terminal in " + spec.workdir + ": " + reply.text +
                (*reply.text ? ": " : "") + std::strerror(reply.error ? reply.error : EPROTO));
  }
  shell_pid_ = reply.value;
  terminal_ =
      std::make_unique<TerminalSession>(&core_->reactor, std::move(received_fd_),
                                        terminal::Screen(*spec.terminal), spec.limits.output_bytes);
  if (!spec.session.empty()) return terminal_ready();
  raise_curtain();
}

/// What bash writes before it is set up is nobody's business, nor is the prompt of one that is
/// restored: that stands on the screen.
void Sandbox::raise_curtain() {
  auto seen = std::make_shared<std::string>();
  bool restored = !seed_.restore.empty();
  terminal_->listen([this, seen, restored](std::string_view bytes) {
    *seen += bytes;
    size_t ready = seen->find(kTerminalReady);
    if (ready == std::string::npos) return std::string_view();
    ready += kTerminalReady.size();
    size_t end = restored ? seen->find(kTerminalCurtain, ready) : seen->size();
    if (end == std::string::npos) return std::string_view();
    terminal_->listen(nullptr);
    if (restored) {
      terminal_->draw(std::string_view(*seen).substr(ready, end - ready));
      terminal_->listen([](std::string_view) { return std::string_view(); });
    }
    await_prompt();
    return restored ? std::string_view() : bytes.substr(bytes.size() - (end - ready));
  });
}

/// The prompt is there when bash waits for keys: all that it wrote before can be read by then.
void Sandbox::await_prompt() {
  auto self = shared_from_this();
  inspect([self](common::Result<Inspection> r) {
    if (!r.ok() || !self->terminal_) return;
    if (!r.value().shell_busy.empty()) {
      self->core_->reactor.call_at(Clock::now() + kPromptPause, [self] { self->await_prompt(); });
      return;
    }
    self->terminal_->drain();
    auto line = restored_line_script(self->seed_.restore);
    if (!line) return self->terminal_ready();
    ask_terminal(self, *line, [self](common::Result<std::string> r) {
      if (r.ok()) return self->terminal_ready();
      self->kill(nullptr);
      self->fail("the line being edited could not be put back");
    });
  });
}

void Sandbox::terminal_ready() {
  if (!start_timer_) return;
  core_->reactor.cancel(*start_timer_);
  start_timer_.reset();
  terminal_->listen(nullptr);
  if (!seed_.restore.empty()) terminal_->forget_output();
  if (seed_.screen) terminal_->set_screen(seed_.screen->copy());
  seed_.screen.reset();
  last_exit_code_ = seed_.last_exit_code;
  shell_ready_ = true;
  maybe_started();
}

void Sandbox::type(Typing typing, Completion<TerminalView> done) {
  if (!broken_.empty()) return done(sandbox_error("type into the terminal: " + broken_));
  if (!terminal_)
    return done(sandbox_error("type into the terminal: the environment was started without one"));
  if (typing.size) {
    terminal_->resize(*typing.size);
    seed_.spec.terminal = typing.size;
  }
  terminal_->type(std::move(typing), [self = shared_from_this(),
                                      done = std::move(done)](common::Result<TerminalView> r) {
    if (!r.ok()) return done(r.error());
    self->core_->after_delay(
        [done, view = std::move(r.value())]() mutable { done(std::move(view)); });
  });
}

}  // namespace espalier::envs::sandbox
