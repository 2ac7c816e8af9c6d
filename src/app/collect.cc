#include "app/collect.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "app/progress.h"
#include "common/error.h"
#include "common/stop.h"

namespace espalier::app {

using namespace std::chrono_literals;

namespace {
constexpr size_t kQueuedTrees = 64;  // sealed and not taken yet; a full queue holds up the farm
}

double mean_reward(const tree::Tree& tree) {
  double sum = 0;
  int count = 0;
  for (const tree::Node& node : tree.nodes) {
    if (!node.reward) continue;
    sum += *node.reward;
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

std::vector<tree::Tree> collect(rollout::Farm& farm, std::vector<rollout::TreeRequest> requests,
                                const CollectOptions& options) {
  const size_t wanted = requests.size();
  rollout::TreeQueue queue(std::clamp<size_t>(wanted, 1, kQueuedTrees));
  std::optional<Progress> bar;
  if (!options.label.empty()) bar.emplace(options.label, static_cast<double>(wanted), "trees");
  std::vector<tree::Tree> trees;
  trees.reserve(wanted);
  double reward_sum = 0;
  bool cancelled = false;
  farm.start(std::move(requests), queue);
  while (trees.size() < wanted) {
    if (common::stop_requested() && !cancelled) {
      cancelled = true;
      farm.cancel();
    }
    std::optional<tree::Tree> tree = queue.pop(std::chrono::steady_clock::now() + 100ms);
    if (tree) {
      reward_sum += mean_reward(*tree);
      trees.push_back(std::move(*tree));
    }
    const double shown = trees.empty() ? 0 : reward_sum / static_cast<double>(trees.size());
    const std::string status = fmt::format("reward {:.2f}", shown);
    if (bar) bar->update(static_cast<double>(trees.size()), status);
    if (options.on_tick) options.on_tick();
  }
  farm.wait();
  if (bar) bar->finish();
  if (cancelled)
    throw common::Cancelled("interrupted while rolling out; finished trees are in the journal");
  std::sort(trees.begin(), trees.end(),
            [](const tree::Tree& a, const tree::Tree& b) { return a.index < b.index; });
  return trees;
}

}  // namespace espalier::app
