#include "envs/sandbox/terminal_value.h"

#include <fcntl.h>
#include <stdlib.h>

#include "common/error.h"
#include "envs/sandbox/shell.h"
#include "envs/sandbox/terminal_shell.h"

namespace espalier::envs::sandbox {
namespace {

constexpr auto kAnswerTimeout = std::chrono::seconds(5);
constexpr auto kIdlePause = std::chrono::microseconds(300);
constexpr size_t kMaxAnswerBytes = size_t{16} << 20;

std::exception_ptr not_forkable(const std::string& why) {
  return std::make_exception_ptr(common::NotForkable("not forkable: " + why));
}

/// What every new terminal has.
const ::termios& new_terminal_settings() {
  static const ::termios settings = [] {
    Fd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    ::termios out{};
    if (!master || tcgetattr(master.get(), &out)) throw_errno("open a terminal");
    return out;
  }();
  return settings;
}

/// One question and its answer. Kept alive by the callbacks that wait.
class Question : public std::enable_shared_from_this<Question> {
 public:
  Question(std::shared_ptr<Sandbox> sandbox, std::string text, Completion<std::string> done)
      : sandbox_(std::move(sandbox)), text_(std::move(text)), done_(std::move(done)) {}

  void begin() {
    TerminalSession* terminal = sandbox_->terminal();
    if (!terminal || terminal->has_ended()) return done_(not_forkable("the session has ended"));
    terminal->drain();
    TerminalModes modes = TerminalModes::of(terminal->master());
    std::string why = why_not_at_prompt(modes, terminal->screen());
    if (!terminal->untaken().empty()) why = "keys were typed that nothing has read yet";
    if (!why.empty()) return done_(not_forkable(why));
    adds_returns_ = modes.settings.c_oflag & OPOST && modes.settings.c_oflag & ONLCR;
    auto self = shared_from_this();
    timer_ = reactor().call_at(Clock::now() + kAnswerTimeout, [self] {
      self->timer_.reset();
      self->end(not_forkable("the shell does not answer"));
    });
    sandbox_->on_failure([self](std::exception_ptr error) { self->end(error); });
    terminal->listen([self](std::string_view bytes) {
      self->take(bytes);
      return std::string_view();
    });
    terminal->send(kTerminalAskKeys);
  }

 private:
  Reactor& reactor() { return sandbox_->core()->reactor; }

  void take(std::string_view bytes) {
    received_ += bytes;
    if (received_.size() > kMaxAnswerBytes)
      return end(not_forkable("the shell's state is more than 16 MiB"));
    if (!asked_) {
      size_t ask = received_.find(kTerminalAsk);
      size_t end = ask == std::string::npos ? ask : received_.find(kTerminalEnd, ask);
      if (end == std::string::npos) return;
      asked_ = true;
      sandbox_->set_last_exit_code(std::atoi(received_.c_str() + ask + kTerminalAsk.size()));
      received_.erase(0, end);
      sandbox_->terminal()->send(terminal_script(text_) + '\0');
    }
    if (answered_) return;
    size_t from = received_.find(kTerminalAnswer), to = received_.rfind(kTerminalDone);
    if (from == std::string::npos || to == std::string::npos) return;
    answered_ = true;
    from += kTerminalAnswer.size();
    answer_ = received_.substr(from, to - from);
    if (adds_returns_) drop_returns();
    await_prompt();
  }

  /// The terminal wrote a return before each newline.
  void drop_returns() {
    size_t kept = 0;
    for (size_t i = 0; i < answer_.size(); ++i)
      if (answer_[i] != '\r' || i + 1 == answer_.size() || answer_[i + 1] != '\n')
        answer_[kept++] = answer_[i];
    answer_.resize(kept);
  }

  /// Bash draws its line again, as it was.
  void await_prompt() {
    auto self = shared_from_this();
    sandbox_->inspect([self](common::Result<Inspection> r) {
      if (!self->done_) return;
      if (!r.ok()) return self->end(r.error());
      if (r.value().shell_busy.empty()) {
        self->sandbox_->terminal()->drain();
        return self->end(nullptr);
      }
      self->reactor().call_at(Clock::now() + kIdlePause, [self] {
        if (self->done_) self->await_prompt();
      });
    });
  }

  void end(std::exception_ptr error) {
    if (!done_) return;
    if (timer_) reactor().cancel(*timer_);
    if (TerminalSession* terminal = sandbox_->terminal()) terminal->listen(nullptr);
    sandbox_->on_failure(nullptr);
    auto done = std::exchange(done_, nullptr);
    if (error) return done(error);
    done(std::move(answer_));
  }

  std::shared_ptr<Sandbox> sandbox_;
  std::string text_;
  Completion<std::string> done_;
  std::optional<Reactor::TimerId> timer_;
  bool adds_returns_ = false, asked_ = false, answered_ = false;
  std::string received_, answer_;
};

}  // namespace

void ask_terminal(const std::shared_ptr<Sandbox>& sandbox, std::string text,
                  Completion<std::string> done) {
  try {
    std::make_shared<Question>(sandbox, std::move(text), done)->begin();
  } catch (const common::Error&) {
    done(std::current_exception());
  }
}

void dump_terminal(const std::shared_ptr<Sandbox>& sandbox, Completion<std::string> done) {
  if (!sandbox->seed().spec.session.empty())
    return done(not_forkable("the session is a program of its own, " +
                             sandbox->seed().spec.session.front()));
  ask_terminal(sandbox, terminal_prompt_query(), [=](common::Result<std::string> answer) {
    if (!answer.ok()) return done(answer.error());
    try {
      auto state = std::make_shared<PromptState>(parse_prompt_state(answer.value()));
      std::string why = why_not_first_prompt(*state, sandbox->terminal()->screen());
      if (!why.empty()) return done(not_forkable(why));
      ask_terminal(
          sandbox, dump_state_query(state->names), [=](common::Result<std::string> variables) {
            if (!variables.ok()) return done(variables.error());
            try {
              TerminalSession& terminal = *sandbox->terminal();
              TerminalModes modes = TerminalModes::of(terminal.master());
              done(terminal_restore_text(restore_text(variables.value()), *state,
                                         stty_arguments(new_terminal_settings(), modes.settings),
                                         terminal.screen()));
            } catch (const common::Error&) {
              done(std::current_exception());
            }
          });
    } catch (const common::Error&) {
      done(std::current_exception());
    }
  });
}

}  // namespace espalier::envs::sandbox
