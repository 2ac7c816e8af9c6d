#include "envs/sandbox/cradles.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

constexpr auto kDiscardPause = std::chrono::milliseconds(20);

}  // namespace

CradlePool::~CradlePool() {
  for (const auto& group : retired_) groups_->discard(*group);
}

CradlePool::Key CradlePool::key(const Limits& limits) {
  return {limits.memory_bytes, limits.disk_bytes, limits.pids, limits.cpus};
}

std::unique_ptr<Cradle> CradlePool::make(const Limits& limits) {
  auto cradle = std::make_unique<Cradle>();
  cradle->group = groups_->take(limits);
  static const std::vector<Fd> kNone;
  cradle->channel =
      spawner_->start_helper(wire::SpawnerOp::cradle, cradle->group ? cradle->group->procs : kNone);
  return cradle;
}

/// One after another.
int CradlePool::processor_other_than(int avoid) {
  if (processors_.size() < 2) return -1;
  int processor;
  do {
    processor = processors_[next_processor_++ % processors_.size()];
  } while (processor == avoid);
  return processor;
}

std::unique_ptr<Cradle> CradlePool::take(const Limits& limits, int avoid) {
  auto& idle = idle_[key(limits)];
  std::unique_ptr<Cradle> cradle;
  if (idle.empty()) {
    cradle = make(limits);
  } else {
    // The last used, its memory is warm, of those that need not move.
    auto fitting = std::find_if(idle.rbegin(), idle.rend(), [avoid](const auto& candidate) {
      return avoid < 0 || candidate->processor != avoid;
    });
    if (fitting == idle.rend()) fitting = idle.rbegin();
    cradle = std::move(*fitting);
    idle.erase(std::next(fitting).base());
  }
  if (cradle->processor < 0 || cradle->processor == avoid)
    cradle->processor = processor_other_than(avoid);
  if (idle.empty())
    reactor_->post([this, limits] {
      if (closed_ || !idle_[key(limits)].empty()) return;
      try {
        idle_[key(limits)].push_back(make(limits));
      } catch (const common::Error&) {
        // The next take() meets the same error and has somebody to tell.
      }
    });
  return cradle;
}

void CradlePool::give_back(const Limits& limits, std::unique_ptr<Cradle> cradle) {
  if (!cradle) return;
  bool reusable = !closed_ && cradle->channel->is_open() &&
                  (!cradle->group || groups_->reusable(*cradle->group));
  if (!reusable) return retire(std::move(cradle));
  idle_[key(limits)].push_back(std::move(cradle));
}

void CradlePool::retire(std::unique_ptr<Cradle> cradle) {
  if (cradle->group) retired_.push_back(std::move(cradle->group));
  cradle->channel->close("the sandbox's place is given up");
  if (closed_) return;
  // Its own callback may be what led here.
  reactor_->post([ended = std::shared_ptr<Cradle>(std::move(cradle))] {});
  if (!std::exchange(discarding_, true)) discard_retired();
}

void CradlePool::discard_retired() {
  std::erase_if(retired_, [this](const auto& group) { return groups_->discard(*group); });
  discarding_ = !retired_.empty();
  if (discarding_)
    reactor_->call_at(Clock::now() + kDiscardPause, [this] {
      if (!closed_) discard_retired();
    });
}

void CradlePool::close() {
  closed_ = true;
  for (auto& [limits, cradles] : idle_)
    for (auto& cradle : cradles) retire(std::move(cradle));
  idle_.clear();
}

}  // namespace espalier::envs::sandbox
