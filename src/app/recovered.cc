#include "app/recovered.h"

#include <set>

#include "rollout/harness.h"
#include "tree/journal.h"

namespace espalier::app {

namespace {

/// Indices whose trees of `step` were begun after every tree of an earlier step.
std::set<uint64_t> begun_last(const std::filesystem::path& journal, uint64_t step,
                              tree::JournalPosition from) {
  std::set<uint64_t> begun;
  tree::JournalReader reader(journal, from);
  while (const auto event = reader.next()) {
    if (event->type != tree::EventType::tree_started) continue;
    if (event->header.step < step) begun.clear();
    if (event->header.step == step) begun.insert(event->tree_index);
  }
  return begun;
}

}  // namespace

std::vector<tree::Tree> recovered_trees(const std::filesystem::path& journal, uint64_t step,
                                        tree::JournalPosition from) {
  const std::set<uint64_t> begun = begun_last(journal, step, from);
  std::vector<tree::Tree> trees;
  if (begun.empty()) return trees;
  tree::RecoverOptions options;
  options.from = from;
  for (tree::RecoveredTree& recovered : tree::recover_trees(journal, options)) {
    if (recovered.sealed && recovered.tree.step == step && begun.contains(recovered.tree.index) &&
        !has_cancelled_leaf(recovered.tree))
      trees.push_back(std::move(recovered.tree));
  }
  return trees;
}

tree::Spend spend_of(const tree::Tree& tree) {
  tree::Spend spend;
  for (const tree::Node& node : tree.nodes) {
    const bool acted = !node.action.empty() && !rollout::ends_episode(node.command);
    const bool verified =
        node.outcome == tree::Outcome::rewarded || node.outcome == tree::Outcome::verifier_failed;
    spend.generated_tokens += node.injected ? 0 : node.action.size();
    spend.env_steps += acted ? 1 : 0;
    spend.leaves += node.outcome == tree::Outcome::none ? 0 : 1;
    spend.verifier_runs += verified ? 1 : 0;
    spend.forks += node.fork_origin != tree::ForkOrigin::none && node.branch > 0 ? 1 : 0;
  }
  return spend;
}

bool has_cancelled_leaf(const tree::Tree& tree) {
  for (const tree::Node& node : tree.nodes) {
    if (node.outcome == tree::Outcome::cancelled) return true;
  }
  return tree.nodes.empty();
}

}  // namespace espalier::app
