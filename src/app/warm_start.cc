#include "app/warm_start.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <numeric>

#include "app/collect.h"
#include "app/progress.h"
#include "common/error.h"
#include "common/rng.h"
#include "common/stop.h"
#include "envs/nursery/nursery.h"

namespace espalier::app {

namespace nursery = envs::nursery;

std::vector<tree::Tree> demonstrate(Session& session) {
  const common::Config& config = session.config;
  const nursery::Draw draw{config.data.families, config.sft.depth_min, config.sft.depth_max};
  std::vector<rollout::TreeRequest> requests;
  for (int i = 0; i < config.sft.episodes; ++i) {
    const auto id =
        nursery::draw_task(nursery::Split::sft, config.seed, static_cast<uint64_t>(i), draw);
    const common::RngKey key = common::derive_key(config.seed, id.name(), "demonstration");
    rollout::TreeRequest request;
    request.task = session.tasks->load(id.name());
    request.index = static_cast<uint64_t>(i);
    request.purpose = "sft";
    request.roots = 1;
    request.may_fork = false;
    request.script = [id, key, noise = config.sft.noise](int) {
      auto oracle = std::make_shared<nursery::NoisyOracle>(nursery::make_blueprint(id), noise, key);
      return [oracle] { return oracle->next(); };
    };
    requests.push_back(std::move(request));
  }
  return collect(*session.side_farm, std::move(requests), {"demonstrations", {}});
}

double behaviour_cloning(const common::Config& config, learner::Learner& learner,
                         const std::vector<tree::Tree>& demonstrations) {
  if (demonstrations.empty())
    throw common::Error("warm start: there are no demonstrations to learn from");
  std::vector<size_t> order(demonstrations.size());
  std::iota(order.begin(), order.end(), size_t{0});
  common::Rng rng(common::derive_key(config.seed, "sft", "batches"));
  size_t next = order.size();
  Progress bar("warm start", config.sft.steps, "steps");
  double recent = 0;
  int bad_in_a_row = 0;
  for (int step = 0; step < config.sft.steps; ++step) {
    if (common::stop_requested()) throw common::Cancelled("interrupted during the warm start");
    std::vector<const tree::Tree*> batch;
    while (static_cast<int>(batch.size()) < config.sft.batch_size) {
      if (next == order.size()) {
        for (size_t i = order.size(); i > 1; --i) {
          std::swap(order[i - 1],
                    order[static_cast<size_t>(rng.range(0, static_cast<int64_t>(i) - 1))]);
        }
        next = 0;
      }
      batch.push_back(&demonstrations[order[next++]]);
    }
    const learner::UpdateResult update = learner.sft_update(batch, step);
    bad_in_a_row = update.bad.empty() ? 0 : bad_in_a_row + 1;
    if (!update.bad.empty())
      spdlog::warn(
          "warm start, step {}: loss or gradient is not finite (first: {}); no update was "
          "made",
          step, update.bad);
    if (bad_in_a_row >= config.learner.max_bad_steps)
      throw common::PolicyError(
          fmt::format("warm start stopped: {} step(s) in a row had a loss or gradient that is not "
                      "finite (learner.max_bad_steps), in the last first '{}'; lower sft.optim.lr",
                      bad_in_a_row, update.bad));
    if (!update.bad.empty()) continue;
    const double loss = update.metrics.at("sft/loss");
    recent = step == 0 ? loss : 0.9 * recent + 0.1 * loss;
    bar.update(step + 1, fmt::format("loss {:.3f}", recent));
  }
  bar.finish(fmt::format("loss {:.3f}", recent));
  return recent;
}

}  // namespace espalier::app
