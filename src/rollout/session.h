// An episode's environment with its history: made again after an infrastructure failure. Internal
// to rollout/.
#pragma once

#include <memory>
#include <string>

#include "common/error.h"
#include "rollout/tree_state.h"

namespace espalier::rollout {

/// One command that was run and what came of it; branches share what lies above their fork.
struct Step {
  std::shared_ptr<const Step> before;
  std::string command;
  envs::Observation observation;
  std::string snapshot;     // durable state after it; empty: none
  bool shown_only = false;  // the observation's output is what the policy was shown of it
};
using StepPtr = std::shared_ptr<const Step>;

/// All retries are used up, or a replay did not give what was recorded.
class GivenUp : public common::SandboxError {
  using SandboxError::SandboxError;
};

/// Operations suspend the calling TBB task. A failing one costs the environment: it is opened again
/// from the latest snapshot on the path (or from the task's start), the commands since then are run
/// again and must give what was recorded; then the operation is repeated. Errors: GivenUp with the
/// reason; Cancelled. Thread contract: one owner, its task.
class Session {
 public:
  /// environment null: made when first needed. history: what was run in it so far.
  Session(Shared& shared, TreeState& tree, envs::EnvironmentPtr environment, StepPtr history);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Makes the environment now.
  void open(const std::string& path);
  /// At most limit_s, and no longer than run and task allow a command.
  envs::Observation run(const std::string& path, const std::string& command, double limit_s);
  /// Of what the last command left. Empty: this state cannot be snapshot. Remembered in the
  /// history.
  std::string snapshot(const std::string& path);
  /// Of an open environment. Not retried: it goes on itself. Errors: as Environment::fork.
  envs::Fork fork();
  envs::Verdict verify(const std::string& path, const envs::VerifierSpec& spec);

  /// Counts and journals a failure of `operation`; false when no retry is left.
  bool note_failure(const std::string& path, const std::string& operation,
                    const std::string& reason, bool may_retry = true);

  const StepPtr& history() const { return history_; }
  /// Seconds in operations since the last call.
  double take_busy_seconds();

 private:
  template <class T, class Start>
  T timed(Start&& start);
  template <class T, class Start>
  T attempt(const std::string& path, const std::string& operation, Start&& start);
  double command_timeout_s() const;
  void adopt(envs::EnvironmentPtr environment);
  void rebuild(const std::string& path);
  void replay_once();

  Shared& shared_;
  TreeState& tree_;
  envs::EnvironmentPtr environment_;
  StepPtr history_;
  int failures_ = 0;
  double busy_seconds_ = 0;
};

}  // namespace espalier::rollout
