#include "tree/bench/simulate.h"

#include <array>
#include <climits>
#include <cmath>

namespace espalier::tree {
namespace {

/// An episode that stands at a boundary.
struct Stand {
  int parent = -1;
  int turn = 0;
  int state = 0;
  int branch = 0;
  int forks_on_path = 0;
  int last_fork_turn = INT_MIN / 2;
};

class Simulation {
 public:
  Simulation(const Mdp& mdp, ForkRule& rule, common::Rng& rng, const std::string& task)
      : mdp_(mdp), rule_(rule), rng_(rng) {
    result_.tree.task = task;
    result_.tree.family = "mdp";
  }

  SimulatedTree run(int roots) {
    std::vector<Stand> standing;
    for (int root = 0; root < roots; ++root) standing.push_back({.branch = root});
    play(std::move(standing));
    while (rule_.looks_back() && go_back()) {
    }
    result_.tree.canonicalise();
    return std::move(result_);
  }

 private:
  void play(std::vector<Stand> standing) {
    while (!standing.empty()) {
      std::vector<Stand> next;
      for (const Stand& stand : standing) decide(stand, next);
      standing = std::move(next);
    }
  }

  ForkContext context(const Stand& stand) {
    ForkContext context;
    context.turn = stand.turn;
    context.forks_in_tree = forks_;
    context.forks_on_path = stand.forks_on_path;
    context.turns_since_fork = stand.turn - stand.last_fork_turn;
    context.consecutive_forks = context.turns_since_fork == 1 ? 1 : 0;
    context.first_entropy = mdp_.entropy(stand.turn, stand.state);
    context.key = {rng_.next()};
    context.task = result_.tree.task;
    context.family = result_.tree.family;
    return context;
  }

  void decide(Stand stand, std::vector<Stand>& next) {
    const ForkContext before = context(stand);
    int children = before.turn == 0 ? 1 : rule_.decide(before);
    if (children > 1) fork_at(stand);
    const size_t first = result_.tree.nodes.size();
    for (int child = 0; child < children; ++child) take(stand, stand.branch + child, next);
    if (before.turn == 0 || !rule_.decides_after_sampling()) return;
    children = rule_.decide_sampled(before, result_.tree.nodes[first].entropies);
    if (children > 1) fork_at(stand);
    for (int child = 1; child < children; ++child) take(stand, stand.branch + child, next);
  }

  void fork_at(Stand& stand) {
    ++forks_;
    ++stand.forks_on_path;
    stand.last_fork_turn = stand.turn;
  }

  /// Samples an action and stands behind it, or ends.
  void take(const Stand& stand, int branch, std::vector<Stand>& next) {
    const int action = mdp_.draw_action(stand.turn, stand.state, rng_);
    const int state = mdp_.draw_next(stand.turn, stand.state, action, rng_);
    Node node;
    node.parent = stand.parent;
    node.branch = branch;
    node.turn = stand.turn;
    node.action = {static_cast<Token>(stand.state * mdp_.shape().actions + action)};
    node.log_probs = {
        static_cast<float>(std::log(mdp_.probability(stand.turn, stand.state, action)))};
    node.first_entropy = static_cast<float>(mdp_.entropy(stand.turn, stand.state));
    // As of a second token, whose distribution depends on the first.
    const int intended = mdp_.intended(stand.turn, stand.state, action);
    node.entropies = {node.first_entropy,
                      static_cast<float>(mdp_.entropy(stand.turn + 1, intended))};
    node.snapshot = std::to_string(stand.turn) + ":" + std::to_string(state);
    ++result_.steps;
    const int index = static_cast<int>(result_.tree.nodes.size());
    if (stand.turn + 1 == mdp_.shape().depth) {
      node.outcome = Outcome::rewarded;
      node.reward = mdp_.reward(state);
    } else {
      next.push_back({.parent = index,
                      .turn = stand.turn + 1,
                      .state = state,
                      .forks_on_path = stand.forks_on_path,
                      .last_fork_turn = stand.last_fork_turn});
    }
    result_.tree.nodes.push_back(std::move(node));
  }

  bool go_back() {
    result_.tree.canonicalise();
    const LookBack back = rule_.look_back(result_.tree, forks_);
    std::vector<Stand> next;
    for (const BackFork& fork : back.forks) {
      const Node& node = result_.tree.nodes[static_cast<size_t>(fork.node)];
      Stand stand{.parent = fork.node, .turn = node.turn + 1};
      stand.state = std::stoi(node.snapshot.substr(node.snapshot.find(':') + 1));
      fork_at(stand);
      int branch = 0;
      for (const Node& other : result_.tree.nodes)
        if (other.parent == fork.node) branch = std::max(branch, other.branch + 1);
      for (int child = 0; child < fork.branches; ++child) take(stand, branch + child, next);
    }
    play(std::move(next));
    return !back.forks.empty();
  }

  const Mdp& mdp_;
  ForkRule& rule_;
  common::Rng& rng_;
  SimulatedTree result_;
  int forks_ = 0;
};

}  // namespace

SimulatedTree simulate_tree(const Mdp& mdp, int roots, ForkRule& rule, common::Rng& rng,
                            const std::string& task) {
  return Simulation(mdp, rule, rng, task).run(roots);
}

void add_gradient(const Mdp& mdp, const Tree& tree, Eigen::VectorXd& gradient, int offset) {
  for (const Node& node : tree.nodes) {
    const int token = node.action.front(), actions = mdp.shape().actions;
    mdp.add_score(node.turn, token / actions, token % actions, node.s_plus + node.s_minus, gradient,
                  offset);
  }
}

}  // namespace espalier::tree
