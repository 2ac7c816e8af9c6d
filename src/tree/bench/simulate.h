// Trees of an Mdp, grown under a fork rule as the farm grows them.
#pragma once

#include <cstdint>
#include <string>

#include "tree/bench/mdp.h"
#include "tree/fork_rule.h"

namespace espalier::tree {

struct SimulatedTree {
  Tree tree;      // a node's action is one token: state · actions + action; canonical
  int steps = 0;  // actions taken
};

/// All episodes of a turn before any of the next, so that a rule meets them as in lock-step rounds.
/// A node's snapshot names the state it leads to. Rules that look back are asked until they are
/// content.
SimulatedTree simulate_tree(const Mdp& mdp, int roots, ForkRule& rule, common::Rng& rng,
                            const std::string& task);

/// Σ (S⁺ + S⁻)·∇ log π over the nodes: the step that the loss takes on-policy.
void add_gradient(const Mdp& mdp, const Tree& tree, Eigen::VectorXd& gradient, int offset);

}  // namespace espalier::tree
