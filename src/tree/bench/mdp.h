// Random tabular MDPs with a softmax policy: small enough that the policy gradient is known
// exactly.
#pragma once

#include <Eigen/Core>
#include <vector>

#include "common/rng.h"

namespace espalier::tree {

struct MdpShape {
  int depth = 4;   // actions an episode
  int states = 6;  // at each depth
  int actions = 3;
  double sparsity = 0.7;   // share of last states whose reward is 0
  double noise = 0.1;      // chance that a transition goes anywhere
  double sharpness = 1.0;  // deviation of the policy's logits
};

/// Layers of states; every episode starts in state 0 of layer 0 and takes `depth` actions. The last
/// state earns 0 or 1. Parameters: one logit a (depth, state, action). Thread contract: immutable.
class Mdp {
 public:
  Mdp(const MdpShape& shape, common::Rng& rng);

  const MdpShape& shape() const { return shape_; }
  int parameters() const { return shape_.depth * shape_.states * shape_.actions; }
  double probability(int turn, int state, int action) const;
  /// Of the policy there, nats; 0 behind the last turn.
  double entropy(int turn, int state) const;
  int draw_action(int turn, int state, common::Rng& rng) const;
  int draw_next(int turn, int state, int action, common::Rng& rng) const;
  /// Where the action leads without noise.
  int intended(int turn, int state, int action) const {
    return intended_[index(turn, state, action)];
  }
  double reward(int state) const { return rewards_[static_cast<size_t>(state)]; }

  /// Adds coefficient · ∇ log π(action | state) to the block of `gradient` that starts at `offset`.
  void add_score(int turn, int state, int action, double coefficient, Eigen::VectorXd& gradient,
                 int offset) const;
  /// ∇ E[R], by going over all states, actions and transitions.
  Eigen::VectorXd exact_gradient() const;

 private:
  size_t index(int turn, int state, int action) const {
    return static_cast<size_t>((turn * shape_.states + state) * shape_.actions + action);
  }
  double transition(int turn, int state, int action, int next) const;

  MdpShape shape_;
  std::vector<double> policy_;
  std::vector<int> intended_;
  std::vector<double> rewards_;
};

}  // namespace espalier::tree
