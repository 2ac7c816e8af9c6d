// fork() live: the session is frozen; the child is a copy of it, and so is, once there is something
// to do in it, what the environment itself goes on with.
#include <chrono>
#include <optional>
#include <utility>

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

/// Why neither way could be gone.
std::exception_ptr explained(std::exception_ptr by_value, const std::string& live) {
  try {
    std::rethrow_exception(by_value);
  } catch (const common::NotForkable& e) {
    return std::make_exception_ptr(common::NotForkable(std::string(e.what()) + "; live: " + live));
  } catch (const common::Error&) {
    return std::current_exception();
  }
}

/// One fork in progress. Kept alive by the callbacks.
///
/// The sandbox for the copy is brought up while the session is being frozen: each takes about as
/// long. Where the session turns out not to be one that can be copied, it was brought up in vain.
class LiveForking : public std::enable_shared_from_this<LiveForking> {
 public:
  LiveForking(std::shared_ptr<EnvironmentState> state, Completion<Fork> done)
      : state_(std::move(state)), done_(std::move(done)) {}

  void begin() {
    if (state_->closed) return cancelled();
    if (state_->origin) return share();
    freeze(kFreezes);
    if (!answered_) start_early();
  }

 private:
  using SandboxResult = common::Result<std::shared_ptr<Sandbox>>;

  void freeze(int tries) {
    state_->sandbox->freeze([self = shared_from_this(), tries](common::Result<FreezeAnswer> r) {
      self->answered_ = true;
      if (r.ok() && r.value().outcome & wire::kFrozen) return self->frozen(r.value().outcome);
      self->abandon_early();
      if (!r.ok()) return self->done_(r.error());
      const FreezeAnswer& answer = r.value();
      if (!(answer.outcome & wire::kBusy) || tries <= 1) return self->refused(answer);
      self->state_->core->reactor.call_at(Clock::now() + kFreezePause, [self, tries] {
        if (self->state_->closed) return self->cancelled();
        self->freeze(tries - 1);
      });
    });
  }

  SandboxSeed seed_of_copy(bool with_upper) const {
    const auto& sandbox = state_->sandbox;
    SandboxSeed seed = sandbox->seed();
    seed.restore.clear();
    seed.last_exit_code = sandbox->last_exit_code();
    if (with_upper) seed.layers.insert(seed.layers.begin(), sandbox->upper());
    return seed;
  }

  void start_early() {
    early_ = std::make_shared<Origin>(state_->sandbox);
    SandboxSeed seed = seed_of_copy(true);
    seed.leave_out_empty = true;
    Sandbox::start_copy(state_->core, std::move(seed), early_,
                        [self = shared_from_this(), origin = early_](SandboxResult r) {
                          // Abandoned: its own end is all that is left of it.
                          if (self->early_ != origin) {
                            if (r.ok()) r.value()->kill(nullptr);
                            return;
                          }
                          self->early_copy_ = std::move(r);
                          self->deliver_early();
                        });
  }

  void abandon_early() {
    if (!early_) return;
    early_->let_go();
    early_.reset();
  }

  void frozen(uint32_t outcome) {
    bool upper_empty = outcome & wire::kUpperEmpty;
    if (state_->closed) {  // and killed
      early_.reset();
      return cancelled();
    }
    state_->next = seed_of_copy(!upper_empty);
    state_->origin = early_ ? early_ : std::make_shared<Origin>(state_->sandbox);
    state_->origin->rest();
    if (outcome & wire::kRebuilt) state_->origin->rebuilds();
    if (!early_) return copy();
    frozen_ = true;
    upper_empty_ = upper_empty;
    deliver_early();
  }

  /// Both have come: that the session is frozen, and a copy of it.
  void deliver_early() {
    if (!early_copy_ || !frozen_) return;
    SandboxResult r = *std::exchange(early_copy_, std::nullopt);
    early_.reset();
    if (!r.ok()) return not_copied(r.error());
    if (state_->closed) {
      r.value()->kill(nullptr);
      return cancelled();
    }
    // Something was written while the one looked and the other did not yet.
    if (r.value()->left_out_empty() != upper_empty_) {
      r.value()->kill(nullptr);
      return copy();
    }
    deliver(make_environment(state_->core, std::move(r.value())));
  }

  /// By value all is lost but the shell's state; that is right where the shell is all there is.
  void refused(const FreezeAnswer& answer) {
    if (state_->closed) return cancelled();
    bool shell = answer.outcome & wire::kIsBash;
    if (!shell) return done_(not_forkable(answer.why));
    done_ = [done = std::move(done_), why = answer.why](common::Result<Fork> r) {
      done(r.ok() ? std::move(r) : common::Result<Fork>(explained(r.error(), why)));
    };
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
                        [self = shared_from_this()](SandboxResult r) {
                          if (!r.ok()) return self->not_copied(r.error());
                          self->deliver(make_environment(self->state_->core, std::move(r.value())));
                        });
  }

  /// While it rests the child can rest beside it: the copy is made when one is needed.
  void share() {
    auto child = std::make_shared<EnvironmentState>(*state_);
    child->origin->rest();
    deliver(std::make_unique<LocalEnvironment>(std::move(child)));
  }

  void deliver(EnvironmentPtr child) {
    Fork fork;
    fork.child = std::move(child);
    fork.kind = state_->origin ? state_->origin->kind() : ForkKind::live;
    fork.duration_us =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started_).count();
    done_(std::move(fork));
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
  bool answered_ = false;
  bool frozen_ = false;
  bool upper_empty_ = false;
  OriginPtr early_;  // of the copy that was begun before the session was frozen
  std::optional<SandboxResult> early_copy_;
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
        state->origin->leave();
        state->sandbox = std::move(r.value());
        state->origin.reset();
        state->next = {};
        done(common::Done{});
      });
}

}  // namespace espalier::envs::sandbox
