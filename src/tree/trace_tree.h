// The trace tree: what one prompt's rollouts did, as recorded, ready for training.
//
// A node is one turn: the policy's action and what the environment answered. A tree is one task
// drawn once; its G root episodes are the children of the prompt. Nothing in here is wall-clock
// time: the same seed gives the same tree, byte for byte. Nothing is re-tokenised or recomputed for
// training.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier::tree {

using Token = int32_t;

/// SHA-256 over (parent id, branch number, event type, payload); shown as the first 32 hex digits.
struct NodeId {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const NodeId&) const = default;  // NOLINT(modernize-use-nullptr): its own 0
  std::string hex() const;                          // 32 digits, for display and lookup
  std::string full_hex() const;                     // all 64
  bool is_zero() const;
};

/// How an episode ended. Only `rewarded` (and a verified agent_timeout, if configured) carries a
/// reward.
enum class Outcome : uint8_t {
  none,  // not a leaf
  rewarded,
  agent_timeout,
  context_overflow,
  verifier_failed,
  infra_failed,
  cancelled,
};
const char* to_string(Outcome outcome);

/// How the environment of a node came to be, when a fork made it.
enum class ForkOrigin : uint8_t { none, live, proxy, criu, value };
const char* to_string(ForkOrigin origin);

/// What became of an action's command: an intent without an answer shows as `sent`.
enum class CommandState : uint8_t { none, sent, answered };
const char* to_string(CommandState state);

struct Node {
  NodeId id;
  int parent = -1;   // index in Tree::nodes; -1: the prompt
  int branch = 0;    // number among its siblings
  int turn = 0;      // depth; 0 = first turn of a root episode
  std::string path;  // "r2/t5/b1": root, turn and branch at each fork; unique in the tree

  std::vector<Token>
      prompt_delta;           // context tokens between the parent's action and this action
                              // (the parent's observation); empty for turn 0: the tree's prompt
  std::vector<Token> action;  // sampled ids, the stop token included
  std::vector<float>
      log_probs;  // of each action token under the policy that sampled it, temperature 1
  std::vector<float> entropies;    // of the distribution each token was drawn from, nats
  std::vector<uint8_t> loss_mask;  // 1: trained on; 0: injected or truncated
  float first_entropy = 0;         // of the first token's distribution, known before sampling
  uint64_t policy_version = 0;
  uint64_t sampling_key = 0;  // RngKey of the action
  bool injected = false;      // the action is an external model's, no sample; never trained on

  std::string command;      // the action as the harness parsed it
  std::string observation;  // what the environment answered, as shown to the policy
  int exit_code = 0;
  bool timed_out = false;
  CommandState command_state = CommandState::none;

  ForkOrigin fork_origin = ForkOrigin::none;  // set on the children of a fork
  std::string fork_rule;  // set on a node below which the rule branched: its name
  std::string snapshot;   // durable environment state after this node; empty: none taken

  Outcome outcome = Outcome::none;  // leaf only
  std::optional<double> reward;     // leaf only; unset: no reward (a typed failure)
  std::string failure;              // detail of a failure

  // Set by the estimator (advantage.h); zero before.
  double value = 0;      // mean reward below, hierarchical
  double advantage = 0;  // A(n)
  double weight = 0;     // ω(n)
  double s_plus = 0;     // Σ of positive leaf coefficients × weight: multiplies min(r, 1+ε_hi)
  double s_minus = 0;    // Σ of negative ones: multiplies max(r, 1−ε_lo)
  // The coefficients themselves, of the valid leaves below in depth-first order; not stored, as
  // they can be estimated again.
  std::vector<double> leaf_credits;
  bool filtered = false;  // left out of training (shaping.h); not stored
};

struct Tree {
  std::string task;    // "nursery:find/17/d2"
  std::string family;  // category for tables; may be empty
  uint64_t index = 0;  // ordinal of the draw within the run
  uint64_t step = 0;   // training step it was rolled out for
  uint64_t run_seed = 0;
  NodeId id;           // of the prompt event: parent of the roots
  std::string prompt;  // text
  std::vector<Token> prompt_tokens;
  std::vector<Node> nodes;  // depth first, siblings by branch number: parents before children

  std::vector<int> roots() const;
  std::vector<std::vector<int>> children() const;  // per node
  std::vector<int> leaves() const;                 // nodes without children
  bool is_leaf(int node) const;
  /// Brings `nodes` into depth-first order (parents first, siblings by branch) and renumbers
  /// parents.
  void canonicalise();
};

/// Id of the prompt event of a tree, and of a node from its parent's id; canonical little-endian
/// encoding of everything the event's payload holds (prompt delta, action, log-probs, entropies,
/// mask, policy version, sampling key, command), documented in docs/format.md.
NodeId prompt_id(const Tree& tree);
NodeId node_id(const NodeId& parent, const Node& node);
/// SHA-256 over what the ids do not cover: of every node in order its id, what came of the action,
/// its end and its estimates. Stored with the tree (docs/format.md).
NodeId tree_digest(const Tree& tree);

/// Paths name nodes within a tree: "rG" the root episode, "/tN" the turn, "/bM" behind the turn of
/// a branch that a fork made. "r2/t4" → fork → "r2/t5/b0", "r2/t5/b1" → "r2/t5/b1/t6".
std::string root_path(int root);  // "r2/t0"
std::string child_path(const std::string& parent, int turn, int branch, bool forked);
/// Path of the parent; empty for a root's first turn and for what is no path.
std::string parent_path(const std::string& path);

}  // namespace espalier::tree
