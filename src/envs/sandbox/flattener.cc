#include "envs/sandbox/flattener.h"

#include <algorithm>

#include "envs/sandbox/sandbox_detail.h"

namespace espalier::envs::sandbox {
namespace {

size_t depth(const SandboxSeed& seed) { return seed.layers.size() - seed.image_layers; }

}  // namespace

Flattener::Ids Flattener::lowest(const SandboxSeed& seed) {
  Ids ids;
  for (size_t i = depth(seed) - kMergedLayers; i < depth(seed); ++i)
    ids.push_back(seed.layers[i]->id());
  return ids;
}

void Flattener::settle(const std::shared_ptr<Sandbox>& sandbox, std::function<void()> go) {
  if (depth(sandbox->seed()) < kTooDeep) return go();
  consider(sandbox->seed());
  auto merge = pending_.find(lowest(sandbox->seed()));
  if (merge == pending_.end()) return go();
  merge->second.waiting.push_back([this, sandbox, go = std::move(go)](bool merged) {
    if (!merged) return go();
    settle(sandbox, go);
  });
}

void Flattener::consider(const SandboxSeed& seed) {
  if (depth(seed) <= kMaxDepth) return;
  Ids ids = lowest(seed);
  if (pending_.count(ids)) return;
  std::erase_if(merged_, [](const auto& merge) { return merge.second.expired(); });
  auto found = merged_.find(ids);
  LayerPtr merged = found == merged_.end() ? nullptr : found->second.lock();
  if (merged) return replace(ids, merged);
  merge(seed, ids);
}

void Flattener::merge(const SandboxSeed& seed, const Ids& ids) {
  LayerPtr merged = core_->new_layer();
  wire::LayerRequest request{};
  request.header.op = wire::SpawnerOp::merge_layers;
  request.header.id = merged->id();
  request.layer_count = uint32_t(ids.size());
  request.base_count = uint32_t(seed.image_layers);
  std::string message = bytes_of(request);
  for (uint64_t id : ids) message += bytes_of(id);
  for (size_t i = depth(seed); i < seed.layers.size(); ++i)
    message += bytes_of(uint64_t{seed.layers[i]->id()});
  auto first = seed.layers.begin() + ptrdiff_t(depth(seed) - kMergedLayers);
  pending_[ids].layers.assign(first, seed.layers.end());
  core_->spawner.call(std::move(message), {}, [this, ids, merged](const auto& reply) {
    Merge done = std::move(pending_[ids]);
    pending_.erase(ids);
    if (reply.ok()) {
      merged_[ids] = merged;
      replace(ids, merged);
    }
    for (auto& go : done.waiting) go(reply.ok());
  });
}

void Flattener::replace(const Ids& ids, const LayerPtr& merged) {
  for (const auto& sandbox : core_->sandboxes) {
    std::vector<LayerPtr> layers = sandbox->seed().layers;
    if (depth(sandbox->seed()) < ids.size()) continue;
    auto end = layers.end() - ptrdiff_t(sandbox->seed().image_layers);
    auto begin = end - ptrdiff_t(ids.size());
    if (!std::equal(begin, end, ids.begin(),
                    [](const LayerPtr& layer, uint64_t id) { return layer->id() == id; }))
      continue;
    *begin = merged;
    layers.erase(begin + 1, end);
    sandbox->set_layers(std::move(layers));
    consider(sandbox->seed());
  }
}

}  // namespace espalier::envs::sandbox
