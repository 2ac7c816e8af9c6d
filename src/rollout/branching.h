// What making a branch needs besides the episode: where it starts, the record of it, the leaf of
// one that did nothing. Internal to rollout/.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "rollout/episode.h"

namespace espalier::rollout {

/// Where an episode stood before the action it has sampled.
struct Before {
  NodeRef parent;
  int turn = 0;
  int branch = 0;
  policy::ContextPtr context;
  std::vector<policy::Token> delta;
};

/// What was decided at a turn boundary, before anything of the next action is sampled.
struct Boundary {
  double first_entropy = 0;
  int branches = 1;
  int forks_in_tree = 0;  // before this one
  bool stop = false;      // cancelled, or the budget is spent
  bool keep = false;      // the environment is kept, for a rule that looks back
  bool beside = false;    // of an action that was sampled already
};

tree::ForkOrigin origin_of(envs::ForkKind kind);

/// The leaf of an episode that sampled nothing since the prompt or its fork: a node without an
/// action.
NodeRef add_empty_node(const BranchPoint& at, const std::string& path);

/// {"branch": 1, "kind": "live"} of each.
nlohmann::json kinds_of(const std::vector<BranchPoint>& children);

/// What the journal keeps of a branching: how many were wanted and made, of what kind.
nlohmann::json record_of(const Boundary& boundary, const std::vector<BranchPoint>& children);

/// As text for the journal; bytes that are no UTF-8 are replaced.
std::string text_of(const nlohmann::json& detail);

}  // namespace espalier::rollout
