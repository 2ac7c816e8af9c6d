// One episode as a straight-line function on a suspending task. Internal to rollout/.
#pragma once

#include <climits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rollout/session.h"
#include "rollout/tree_state.h"

namespace espalier::rollout {

/// Where an episode starts: at the prompt (a root) or at a fork (a branch).
struct BranchPoint {
  std::shared_ptr<TreeState> tree;
  int root = 0;
  NodeRef parent;  // the node it goes on from
  int turn = 0;
  int branch = 0;       // number of its first node among its siblings
  bool forked = false;  // false: a root
  tree::ForkOrigin origin = tree::ForkOrigin::none;
  policy::ContextPtr context;           // all tokens before its first action
  std::vector<policy::Token> delta;     // those between the parent's action and its own
  std::optional<double> first_entropy;  // known at a fork: nothing is left to be prefilled
  std::string injected;                 // its first action, in place of a sample; empty: none
  bool late = false;                    // the tree's episodes were over when it was made
  envs::EnvironmentPtr environment;     // null: to be made from the history
  StepPtr history;
  int forks_on_path = 0;
  int consecutive_forks = 0;  // turns in a row that branched, the last at last_fork_turn
  int last_fork_turn = INT_MIN / 2;
  double used_seconds = 0;                         // of the task's agent_timeout_s
  std::optional<policy::Participant> participant;  // none: scripted
};

/// Plays the episode to its end and records its leaf; forks become episodes of their own
/// (Shared::continue_branch). Never throws: whatever goes wrong is the leaf's outcome. On a TBB
/// task.
void run_episode(Shared& shared, BranchPoint start) noexcept;

/// Records an episode that was never started: a leaf without an action, cancelled.
void abandon_episode(Shared& shared, BranchPoint start) noexcept;

}  // namespace espalier::rollout
