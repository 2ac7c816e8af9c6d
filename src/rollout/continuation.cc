#include "rollout/continuation.h"

#include <utility>

namespace espalier::rollout {
namespace {

/// As it was before anybody knew how its episode would end.
tree::Node without_end(tree::Node node) {
  node.outcome = tree::Outcome::none;
  node.reward.reset();
  node.failure.clear();
  node.value = node.advantage = node.weight = node.s_plus = node.s_minus = 0;
  return node;
}

StepPtr step_of(const tree::Node& node, StepPtr before) {
  envs::Observation observation;
  observation.output = node.observation;
  observation.exit_code = node.exit_code;
  observation.timed_out = node.timed_out;
  return std::make_shared<const Step>(
      Step{std::move(before), node.command, std::move(observation), node.snapshot, true});
}

}  // namespace

BranchPoint continue_recorded(const std::shared_ptr<TreeState>& tree, const Harness& harness) {
  Continuation& from = *tree->request().from;
  BranchPoint start;
  start.tree = tree;
  start.parent = tree->prompt();
  start.context = tree->prompt_context();
  for (const tree::Node& node : from.path) {
    start.context = policy::Context::extend(start.context, node.prompt_delta);
    start.context = policy::Context::extend(start.context, node.action);
    start.parent = tree->add_turn(start.parent, node.path, without_end(node));
    if (was_run(harness, node)) start.history = step_of(node, start.history);
    start.turn = node.turn + 1;
  }
  start.branch = from.branch;
  start.root = from.path.empty() ? from.branch : from.path.front().branch;
  if (!from.path.empty()) {
    start.forked = true;
    start.origin = tree::ForkOrigin::value;
    start.context = policy::Context::extend(start.context, from.delta);
    start.delta = from.delta;
  }
  start.injected = from.injected;
  start.environment = std::move(from.environment);
  return start;
}

}  // namespace espalier::rollout
