// Sandboxes whose session has a terminal: its start, and what is typed into it.
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/shell.h"
#include "envs/sandbox/terminal_shell.h"

namespace espalier::envs::sandbox {
namespace {

constexpr auto kStartTimeout = std::chrono::seconds(30);
constexpr auto kPromptPause = std::chrono::microseconds(300);

}  // namespace

/// The request waits in the socket until init is there.
void Sandbox::start_terminal() {
  const EnvironmentSpec& spec = seed_.spec;
  wire::TerminalShape shape{uint16_t(spec.terminal->columns), uint16_t(spec.terminal->rows)};
  bool bash = spec.session.empty();
  std::vector<int> fds, targets;
  Fd setup;
  std::map<std::string, std::string> before = {{"TERM", "xterm-256color"}}, after;
  if (bash) {
    setup = make_memory_file("shell-setup", terminal_setup_text(seed_.restore));
    fds.push_back(setup.get());
    targets.push_back(kShellStateFd);
    after["PROMPT_COMMAND"] = ". /dev/fd/" + std::to_string(kShellStateFd);
  }
  auto env =
      environment_strings(spec.root ? "/root" : "/home/agent", {&before, &spec.variables, &after});
  uint32_t flags =
      wire::kExecShell | wire::kExecTerminal | (spec.root ? uint32_t{wire::kExecAsRoot} : 0);
  auto argv = bash ? terminal_shell_argv() : spec.session;
  std::string message = exec_message(flags, targets, spec.workdir, argv, env, shape);
  auto self = shared_from_this();
  shell_ticket_ = send_init(std::move(message), fds, [self](common::Result<wire::InitReply> r) {
    if (r.ok()) self->terminal_started(r.value());
  });
  start_timer_ = core_->reactor.call_at(Clock::now() + kStartTimeout, [self] {
    self->start_timer_.reset();
    self->kill(nullptr);
    self->fail("the session did not come to its prompt within 30 s of its start");
  });
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
  // What bash writes before it is set up is nobody's business.
  auto seen = std::make_shared<std::string>();
  terminal_->listen([this, seen](std::string_view bytes) {
    *seen += bytes;
    size_t mark = seen->find(kTerminalReady);
    if (mark == std::string::npos) return std::string_view();
    size_t rest = seen->size() - mark - kTerminalReady.size();
    terminal_->listen(nullptr);
    await_prompt();
    return bytes.substr(bytes.size() - rest);
  });
}

/// The prompt is there when bash waits for keys: all that it wrote before can be read by then.
void Sandbox::await_prompt() {
  auto self = shared_from_this();
  inspect([self](common::Result<Inspection> r) {
    if (!r.ok() || !self->terminal_) return;
    if (r.value().shell_busy.empty()) return self->terminal_ready();
    self->core_->reactor.call_at(Clock::now() + kPromptPause, [self] { self->await_prompt(); });
  });
}

void Sandbox::terminal_ready() {
  if (!start_timer_) return;
  core_->reactor.cancel(*start_timer_);
  start_timer_.reset();
  terminal_->drain();
  shell_ready_ = true;
  maybe_started();
}

void Sandbox::type(Typing typing, Completion<TerminalView> done) {
  if (!broken_.empty()) return done(sandbox_error("type into the terminal: " + broken_));
  if (!terminal_)
    return done(sandbox_error("type into the terminal: the environment was started without one"));
  terminal_->type(std::move(typing), [self = shared_from_this(),
                                      done = std::move(done)](common::Result<TerminalView> r) {
    if (!r.ok()) return done(r.error());
    self->core_->after_delay(
        [done, view = std::move(r.value())]() mutable { done(std::move(view)); });
  });
}

}  // namespace espalier::envs::sandbox
