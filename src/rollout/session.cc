#include "rollout/session.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "common/error.h"
#include "envs/limits.h"
#include "rollout/branching.h"
#include "rollout/harness.h"
#include "rollout/suspend.h"

namespace espalier::rollout {
namespace {

using Seconds = std::chrono::duration<double>;

envs::Deadline after(double seconds) {
  return envs::Clock::now() + std::chrono::duration_cast<envs::Clock::duration>(Seconds(seconds));
}

/// What of an observation a replay must give again: everything but time.
bool same(const envs::Observation& a, const envs::Observation& b) {
  return without_line_numbers(a.output) == without_line_numbers(b.output) &&
         a.exit_code == b.exit_code && a.timed_out == b.timed_out &&
         a.shell_exited == b.shell_exited;
}

/// A replay gave something else: repeating it would not help.
class Diverged : public common::SandboxError {
  using SandboxError::SandboxError;
};

}  // namespace

envs::EnvironmentSpec episode_environment(const envs::Task& task, const FarmOptions& options) {
  envs::EnvironmentSpec spec = task.environment;
  if (spec.image == envs::kHostImage) spec.image = options.image;
  spec.limits = envs::limits_of_task(spec.limits, options.limits);
  spec.network = spec.network && options.network;
  return spec;
}

Session::Session(Shared& shared, TreeState& tree, envs::EnvironmentPtr environment, StepPtr history)
    : shared_(shared), tree_(tree), history_(std::move(history)) {
  if (environment) adopt(std::move(environment));
}

Session::~Session() {
  if (environment_) --shared_.progress.live;
}

void Session::adopt(envs::EnvironmentPtr environment) {
  if (environment_) --shared_.progress.live;
  environment_ = std::move(environment);
  if (environment_) ++shared_.progress.live;
}

double Session::take_busy_seconds() { return std::exchange(busy_seconds_, 0.0); }

template <class T, class Start>
T Session::timed(Start&& start) {
  const auto begin = envs::Clock::now();
  std::optional<double> seconds;  // until the completion, not until a thread is free to go on
  struct Sum {
    Session& session;
    std::optional<double>& seconds;
    ~Sum() { session.busy_seconds_ += seconds.value_or(0); }
  } sum{*this, seconds};
  return suspend_for<T>([&](common::Completion<T> done) {
    start([&seconds, begin, done = std::move(done)](common::Result<T> result) {
      seconds = Seconds(envs::Clock::now() - begin).count();
      done(std::move(result));
    });
  });
}

bool Session::note_failure(const std::string& path, const std::string& operation,
                           const std::string& reason, bool may_retry) {
  const bool retry = may_retry && failures_ < shared_.options.infra_retries;
  ++failures_;
  shared_.spend({.infra_failures = 1});
  tree_.failed(path, text_of({{"operation", operation},
                              {"reason", reason},
                              {"failures", failures_},
                              {"then", retry ? "retry" : "give up"}}));
  if (retry) tree_.retrying(path, text_of({{"operation", operation}, {"attempt", failures_ + 1}}));
  return retry;
}

template <class T, class Start>
T Session::attempt(const std::string& path, const std::string& operation, Start&& start) {
  for (;;) {
    if (!environment_) rebuild(path);
    std::string reason;  // outside the handler: what follows suspends
    try {
      return timed<T>(start);
    } catch (const common::Cancelled&) {
      throw;
    } catch (const common::NotForkable&) {
      throw;  // the environment is unharmed
    } catch (const std::exception& error) {
      reason = error.what();
    }
    adopt(nullptr);
    if (!note_failure(path, operation, reason)) throw GivenUp(operation + ": " + reason);
  }
}

void Session::open(const std::string& path) {
  if (!environment_) rebuild(path);
}

void Session::rebuild(const std::string& path) {
  for (;;) {
    if (shared_.cancelled)
      throw common::Cancelled("open the environment: the run is being stopped");
    std::string reason;
    bool diverged = false;
    try {
      return replay_once();
    } catch (const common::Cancelled&) {
      throw;
    } catch (const Diverged& error) {
      reason = error.what();
      diverged = true;
    } catch (const std::exception& error) {
      reason = error.what();
    }
    adopt(nullptr);
    if (!note_failure(path, "open the environment", reason, !diverged))
      throw GivenUp("open the environment: " + reason);
  }
}

void Session::replay_once() {
  std::vector<const Step*> steps;  // since the latest snapshot, newest first
  const Step* step = history_.get();
  for (; step && step->snapshot.empty(); step = step->before.get()) steps.push_back(step);
  std::reverse(steps.begin(), steps.end());
  adopt(timed<envs::EnvironmentPtr>([&](common::Completion<envs::EnvironmentPtr> done) {
    if (step) return shared_.parts.backend->open({step->snapshot}, std::move(done));
    shared_.parts.backend->create(episode_environment(*tree_.request().task, shared_.options),
                                  std::move(done));
  }));
  for (const Step* again : steps) {
    const auto deadline = after(command_timeout_s());
    auto seen = timed<envs::Observation>([&](common::Completion<envs::Observation> done) {
      environment_->run(again->command, deadline, std::move(done));
    });
    if (again->shown_only) seen.output = shared_.harness->observe(seen).text;
    if (!same(seen, again->observation))
      throw Diverged("replay of '" + again->command + "' gave exit code " +
                     std::to_string(seen.exit_code) + " and '" + seen.output.substr(0, 200) +
                     "', recorded were " + std::to_string(again->observation.exit_code) + " and '" +
                     again->observation.output.substr(0, 200) + "'");
  }
}

double Session::command_timeout_s() const {
  return std::min(shared_.options.command_timeout_s, tree_.request().task->command_timeout_s);
}

envs::Observation Session::run(const std::string& path, const std::string& command,
                               double limit_s) {
  const double timeout_s = std::min(limit_s, command_timeout_s());
  auto observation = attempt<envs::Observation>(
      path, "run a command", [&](common::Completion<envs::Observation> done) {
        environment_->run(command, after(timeout_s), std::move(done));
      });
  history_ = std::make_shared<const Step>(Step{history_, command, observation, "", false});
  return observation;
}

std::string Session::snapshot(const std::string& path) {
  if (history_ && !history_->snapshot.empty()) return history_->snapshot;
  std::string hex;
  try {
    hex = attempt<envs::SnapshotId>(path, "take a snapshot",
                                    [&](common::Completion<envs::SnapshotId> done) {
                                      environment_->snapshot(std::move(done));
                                    })
              .hex;
  } catch (const common::NotForkable&) {
    return "";
  }
  if (history_) {
    Step step = *history_;
    step.snapshot = hex;
    history_ = std::make_shared<const Step>(std::move(step));
  }
  return hex;
}

envs::Fork Session::fork() {
  return timed<envs::Fork>(
      [&](common::Completion<envs::Fork> done) { environment_->fork(std::move(done)); });
}

envs::Verdict Session::verify(const std::string& path, const envs::VerifierSpec& spec) {
  return attempt<envs::Verdict>(path, "verify", [&](common::Completion<envs::Verdict> done) {
    environment_->verify(spec, std::move(done));
  });
}

}  // namespace espalier::rollout
