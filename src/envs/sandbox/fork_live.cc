// fork() live: the session is frozen; the child is a copy of it, and so is, once there is something
// to do in it, what the environment itself goes on with.
#include <chrono>

#include "common/error.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/local_environment.h"

namespace espalier::envs::sandbox {
namespace {

constexpr int kFreezes = 10;  // tries, while something is just ending
constexpr auto kFreezePause = std::chrono::milliseconds(3);

std::exception_ptr not_forkable(const std::string& why) {
  return std::make_exception_ptr(common::NotForkable("not forkable: " + why));
}

/// One fork in progress. Kept alive by the callbacks.
class LiveForking : public std::enable_shared_from_this<LiveForking> {
 public:
  LiveForking(std::shared_ptr<EnvironmentState> state, Completion<Fork> done)
      : state_(std::move(state)), done_(std::move(done)) {}

  void begin() {
    if (state_->closed) return cancelled();
    if (state_->origin) return copy();
    freeze(kFreezes);
  }

 private:
  void freeze(int tries) {
    state_->sandbox->freeze([self = shared_from_this(), tries](common::Result<FreezeAnswer> r) {
      if (!r.ok()) return self->done_(r.error());
      const FreezeAnswer& answer = r.value();
      if (answer.outcome & wire::kFrozen) return self->frozen(answer.outcome & wire::kUpperEmpty);
      if (!(answer.outcome & wire::kBusy) || tries <= 1) return self->refused(answer);
      self->state_->core->reactor.call_at(Clock::now() + kFreezePause, [self, tries] {
        if (self->state_->closed) return self->cancelled();
        self->freeze(tries - 1);
      });
    });
  }

  void frozen(bool upper_empty) {
    if (state_->closed) return cancelled();  // and killed
    const auto& sandbox = state_->sandbox;
    state_->origin = std::make_shared<Origin>(sandbox);
    state_->next = sandbox->seed();
    state_->next.restore.clear();
    state_->next.last_exit_code = sandbox->last_exit_code();
    if (!upper_empty) state_->next.layers.insert(state_->next.layers.begin(), sandbox->upper());
    copy();
  }

  /// By value all is lost but the shell's state; that is right where the shell is all there is.
  void refused(const FreezeAnswer& answer) {
    if (state_->closed) return cancelled();
    bool shell = answer.outcome & wire::kIsBash;
    if (!shell) return done_(not_forkable(answer.why));
    by_value();
  }

  void by_value() {
    try {
      fork_by_value(state_, done_);
    } catch (const common::Error&) {
      done_(std::current_exception());
    }
  }

  void copy() {
    Sandbox::start_copy(state_->core, state_->next, state_->origin,
                        [self = shared_from_this()](common::Result<std::shared_ptr<Sandbox>> r) {
                          if (!r.ok()) return self->not_copied(r.error());
                          Fork fork;
                          fork.child = make_environment(self->state_->core, std::move(r.value()));
                          fork.kind = ForkKind::live;
                          fork.duration_us = std::chrono::duration_cast<std::chrono::microseconds>(
                                                 Clock::now() - self->started_)
                                                 .count();
                          self->done_(std::move(fork));
                        });
  }

  /// The environment goes on as it was, if nothing depends on its being frozen.
  void not_copied(std::exception_ptr why) {
    if (state_->closed) return cancelled();
    state_->sandbox->thaw([self = shared_from_this(), why](common::Result<common::Done> r) {
      if (self->state_->closed) return self->cancelled();
      if (!r.ok()) return self->done_(why);  // there are copies: it rests
      self->state_->origin->let_go();
      self->state_->origin.reset();
      self->by_value();
    });
  }

  void cancelled() {
    done_(std::make_exception_ptr(common::Cancelled("the environment was closed")));
  }

  std::shared_ptr<EnvironmentState> state_;
  Completion<Fork> done_;
  Clock::time_point started_ = Clock::now();
};

bool may_fork_live(const EnvironmentState& state) {
  const Core& core = *state.core;
  const EnvironmentSpec& spec = state.sandbox->seed().spec;
  // Processes counted by the kernel per user namespace need one for each sandbox alone, and the way
  // out of a network belongs to the sandbox it was made for.
  return !core.keepers.empty() && !core.process_limit(spec.limits) && !spec.network &&
         state.sandbox->depth() < core.spawner.max_depth();
}

}  // namespace

void fork_environment(const std::shared_ptr<EnvironmentState>& state, Completion<Fork> done) {
  const Core& core = *state->core;
  if (core.live >= core.options.max_live)
    throw common::SandboxError("fork: " + std::to_string(core.live) +
                               " environments live; max_live is " +
                               std::to_string(core.options.max_live));
  if (state->sandbox->seed().layers.size() + 1 >= wire::kMaxLayers)
    throw common::NotForkable(
        "not forkable: " + std::to_string(state->sandbox->seed().layers.size()) +
        " layers deep already");
  if (!state->origin && !may_fork_live(*state)) return fork_by_value(state, std::move(done));
  auto forking = std::make_shared<LiveForking>(state, std::move(done));
  if (state->origin) return forking->begin();
  state->core->flattener->settle(state->sandbox, [forking] { forking->begin(); });
}

void awaken(const std::shared_ptr<EnvironmentState>& state, Completion<common::Done> done) {
  if (!state->origin) return done(common::Done{});
  Sandbox::start_copy(
      state->core, state->next, state->origin,
      [state, done](common::Result<std::shared_ptr<Sandbox>> r) {
        if (!r.ok()) return done(r.error());
        if (state->closed) {
          r.value()->kill(nullptr);
          return done(std::make_exception_ptr(common::Cancelled("the environment was closed")));
        }
        state->sandbox->release();
        state->sandbox = std::move(r.value());
        state->origin.reset();
        state->next = {};
        done(common::Done{});
      });
}

}  // namespace espalier::envs::sandbox
