// fork() by value: the files written so far become a read-only layer under parent and child, the
// shell's state is written down, and new shells start from both.
#include <chrono>

#include "common/error.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/local_environment.h"
#include "envs/sandbox/shell.h"
#include "envs/sandbox/terminal_value.h"

namespace espalier::envs::sandbox {
namespace {

constexpr int kInspections = 10;
constexpr auto kInspectionPause = std::chrono::milliseconds(3);

std::string why_not(const Inspection& seen) {
  if (seen.other_processes == 0) return seen.shell_busy;
  return std::to_string(seen.other_processes) +
         " other processes run beside the shell; a fork by value carries files and the shell only";
}

/// Asks until the sandbox is quiet: neither a process that is just ending (of a pipeline, a
/// substitution) nor a redirection that the shell is just undoing is a reason to refuse.
void await_quiet(const std::shared_ptr<Sandbox>& sandbox, int tries,
                 Completion<common::Done> done) {
  sandbox->inspect([=](common::Result<Inspection> r) {
    if (!r.ok()) return done(r.error());
    const Inspection& seen = r.value();
    if (seen.shell_busy.empty() && seen.other_processes == 0) return done(common::Done{});
    if (tries <= 1)
      return done(std::make_exception_ptr(common::NotForkable("not forkable: " + why_not(seen))));
    sandbox->core()->reactor.call_at(Clock::now() + kInspectionPause,
                                     [=] { await_quiet(sandbox, tries - 1, done); });
  });
}

/// One fork in progress; each step starts the next. Kept alive by the callbacks.
class Forking : public std::enable_shared_from_this<Forking> {
 public:
  Forking(std::shared_ptr<EnvironmentState> state, Completion<Fork> done)
      : state_(std::move(state)), sandbox_(state_->sandbox), done_(std::move(done)) {}

  void begin() {
    if (state_->core->live >= state_->core->options.max_live)
      throw common::SandboxError("fork: " + std::to_string(state_->core->live) +
                                 " environments live; max_live is " +
                                 std::to_string(state_->core->options.max_live));
    if (sandbox_->seed().layers.size() + 1 >= wire::kMaxLayers)
      throw common::NotForkable("not forkable: " + std::to_string(sandbox_->seed().layers.size()) +
                                " layers deep already");
    dump_shell(sandbox_, step<std::string>([](Forking& self, std::string restore) {
                 self.seed_ = self.sandbox_->seed();
                 self.seed_.restore = std::move(restore);
                 self.seed_.last_exit_code = self.sandbox_->last_exit_code();
                 if (TerminalSession* terminal = self.sandbox_->terminal())
                   self.seed_.screen =
                       std::make_shared<const terminal::Screen>(terminal->screen().copy());
                 self.look_at_upper();
               }));
  }

 private:
  /// A completion that goes on with `next`, or ends the fork with the error.
  template <class T>
  Completion<T> step(std::function<void(Forking&, T)> next) {
    return [self = shared_from_this(), next](common::Result<T> r) {
      if (!r.ok()) return self->done_(r.error());
      try {
        next(*self, std::move(r).get());
      } catch (const common::Error&) {
        self->done_(std::current_exception());
      }
    };
  }

  void look_at_upper() {
    state_->core->spawner.call(wire::SpawnerOp::is_empty, sandbox_->upper()->id(), {},
                               step<SpawnerReplyFds>([](Forking& self, SpawnerReplyFds reply) {
                                 // Nothing was written since the last fork: the parent goes on as
                                 // it is.
                                 if (reply.value) return self.start_child();
                                 self.freeze();
                               }));
  }

  void freeze() {
    sandbox_->kill([self = shared_from_this()] {
      self->state_->core->spawner.call(
          wire::SpawnerOp::seal, self->sandbox_->upper()->id(), {},
          self->step<SpawnerReplyFds>([](Forking& self, SpawnerReplyFds) {
            self.seed_.layers.insert(self.seed_.layers.begin(), self.sandbox_->upper());
            self.start_parent();
            self.start_child();
          }));
    });
  }

  void start_parent() {
    waiting_ = 2;
    Sandbox::start(state_->core, seed_,
                   [self = shared_from_this()](common::Result<std::shared_ptr<Sandbox>> r) {
                     if (!r.ok()) {
                       self->error_ = r.error();
                     } else {
                       self->state_->sandbox = std::move(r.value());
                       if (self->state_->closed)
                         std::exchange(self->state_->sandbox, nullptr)->kill(nullptr);
                     }
                     self->one_started();
                   });
  }

  void start_child() {
    if (waiting_ == 0) waiting_ = 1;
    start_environment(state_->core, seed_,
                      [self = shared_from_this()](common::Result<EnvironmentPtr> r) {
                        if (!r.ok()) {
                          self->error_ = r.error();
                        } else {
                          self->child_ = std::move(r.value());
                        }
                        self->one_started();
                      });
  }

  void one_started() {
    if (--waiting_ > 0) return;
    sandbox_.reset();
    if (error_) return done_(error_);
    if (state_->closed)
      return done_(std::make_exception_ptr(common::Cancelled("the environment was closed")));
    Fork fork;
    fork.child = std::move(child_);
    fork.kind = ForkKind::value;
    fork.duration_us =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started_).count();
    done_(std::move(fork));
  }

  std::shared_ptr<EnvironmentState> state_;
  std::shared_ptr<Sandbox> sandbox_;
  Completion<Fork> done_;
  Clock::time_point started_ = Clock::now();
  SandboxSeed seed_;
  int waiting_ = 0;
  std::exception_ptr error_;
  EnvironmentPtr child_;
};

}  // namespace

void dump_shell(const std::shared_ptr<Sandbox>& sandbox, Completion<std::string> done) {
  await_quiet(sandbox, kInspections, [=](common::Result<common::Done> quiet) {
    if (!quiet.ok()) return done(quiet.error());
    if (sandbox->seed().spec.terminal) return dump_terminal(sandbox, done);
    sandbox->query(dump_names_query(), [=](common::Result<std::string> names) {
      if (!names.ok()) return done(names.error());
      sandbox->query(dump_state_query(names.value()), [=](common::Result<std::string> state) {
        if (!state.ok()) return done(state.error());
        try {
          done(restore_text(state.value()));
        } catch (const common::Error&) {
          done(std::current_exception());
        }
      });
    });
  });
}

void fork_by_value(const std::shared_ptr<EnvironmentState>& state, Completion<Fork> done) {
  auto forking = std::make_shared<Forking>(state, done);
  state->core->flattener->settle(state->sandbox, [forking, done] {
    try {
      forking->begin();
    } catch (const common::Error&) {
      done(std::current_exception());
    }
  });
}

}  // namespace espalier::envs::sandbox
