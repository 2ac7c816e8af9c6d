#include "app/tree_source.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "app/collect.h"
#include "app/recovered.h"
#include "common/error.h"
#include "envs/nursery/nursery.h"

namespace espalier::app {

TreeSource::TreeSource(Session& session, const RunDirectory& run,
                       std::function<void(uint64_t step)> on_tick)
    : session_(session), run_(run), on_tick_(std::move(on_tick)) {}

TreeSource::~TreeSource() {
  if (!begun()) return;
  session_.farm->cancel();
  settle();
}

void TreeSource::begin(uint64_t step) {
  under_way_ = std::async(std::launch::async, [this, step] { return roll_out(step); });
}

void TreeSource::settle() {
  if (begun()) under_way_.wait();
}

std::vector<tree::Tree> TreeSource::take(uint64_t step) {
  return begun() ? under_way_.get() : roll_out(step);
}

std::vector<tree::Tree> TreeSource::sealed_before_interruption(uint64_t step) const {
  std::vector<tree::Tree> sealed;
  // Lock-step batches depend on which trees are rolled out together: the deterministic mode does
  // the step again.
  if (session_.config.deterministic || !interrupted_ || interrupted_->step != step) return sealed;
  try {
    sealed = recovered_trees(run_.journal(), step, interrupted_->from);
  } catch (const common::StoreError& error) {
    spdlog::warn("step {} is rolled out again as a whole: {}", step, error.what());
    return sealed;
  }
  for (const tree::Tree& tree : sealed) session_.ledger.add(spend_of(tree));
  if (!sealed.empty()) spdlog::info("step {}: {} trees were finished", step, sealed.size());
  return sealed;
}

std::vector<tree::Tree> TreeSource::roll_out(uint64_t step) {
  const common::Config& config = session_.config;
  if (!config.data.trees.empty()) {
    if (!stored_) stored_.emplace(config, step);
    return stored_->next();
  }
  const envs::nursery::Draw draw{config.data.families, config.data.depth_min,
                                 config.data.depth_max};
  const uint64_t batch = static_cast<uint64_t>(config.data.train_batch_size);
  std::vector<tree::Tree> trees = sealed_before_interruption(step);
  std::set<uint64_t> there;
  for (const tree::Tree& tree : trees) there.insert(tree.index);
  std::vector<rollout::TreeRequest> requests;
  for (uint64_t i = step * batch; i < (step + 1) * batch; ++i) {
    if (there.contains(i)) continue;
    const auto id = envs::nursery::draw_task(envs::nursery::Split::train, config.seed, i, draw);
    rollout::TreeRequest request;
    request.task = session_.tasks->load(id.name());
    request.index = i;
    request.step = step;
    request.roots = config.rollout.n;
    request.sampling = sampling_options(config, config.rollout.temperature);
    requests.push_back(std::move(request));
  }
  CollectOptions options;
  options.on_tick = [this, step] { on_tick_(step); };
  for (tree::Tree& tree : collect(*session_.farm, std::move(requests), options))
    trees.push_back(std::move(tree));
  std::sort(trees.begin(), trees.end(),
            [](const tree::Tree& a, const tree::Tree& b) { return a.index < b.index; });
  return trees;
}

}  // namespace espalier::app
