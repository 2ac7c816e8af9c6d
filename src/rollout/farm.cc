#include "rollout/farm.h"

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "common/error.h"
#include "rollout/continuation.h"
#include "rollout/episode.h"

namespace espalier::rollout {
namespace {

/// The root episodes of one start() that were not admitted yet.
struct Batch {
  std::deque<BranchPoint> roots;
};

int worker_count(const FarmOptions& options) {
  if (options.workers > 0) return options.workers;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

struct Farm::Impl {
  Shared shared;
  // The calling thread never works in the arena, so all slots are workers'.
  oneapi::tbb::global_control threads;
  oneapi::tbb::task_arena arena;

  std::mutex mutex;
  std::condition_variable idle;
  std::deque<Batch> waiting;  // a deterministic wave never mixes two start()s
  // Deterministic: branches of trees that were over, in an order that no timing decides.
  std::map<std::tuple<uint64_t, std::string, int>, BranchPoint> revisits;
  size_t live = 0;  // episodes admitted and not over
  size_t busy = 0;  // episodes and admissions whose task is not over
  std::exception_ptr error;

  Impl(FarmParts parts, FarmOptions options)
      : threads(oneapi::tbb::global_control::max_allowed_parallelism, worker_count(options) + 1),
        arena(worker_count(options), 0) {
    shared.parts = std::move(parts);
    shared.options = std::move(options);
    shared.harness =
        make_bash_harness(shared.parts.tokenizer, shared.options.max_observation_tokens,
                          shared.options.deterministic);
    shared.continue_branch = [this](BranchPoint branch) {
      {
        std::lock_guard lock(mutex);
        ++live;
        ++busy;
      }
      launch(std::move(branch));
    };
    shared.revisit = [this](std::vector<BranchPoint> branches) { revisit(std::move(branches)); };
    shared.fail = [this](std::exception_ptr cause) {
      {
        std::lock_guard lock(mutex);
        if (!error) error = cause;
      }
      shared.cancelled = true;
    };
  }

  /// From within an episode: `live` is not 0. The deterministic mode starts them when it is, so
  /// that what shares a round depends on the seed alone; then admit() finds them.
  void revisit(std::vector<BranchPoint> branches) {
    std::deque<BranchPoint> starting(std::make_move_iterator(branches.begin()),
                                     std::make_move_iterator(branches.end()));
    {
      std::lock_guard lock(mutex);
      if (shared.options.deterministic) {
        for (BranchPoint& branch : starting) {
          std::tuple place(branch.tree->request().index, branch.parent.path, branch.branch);
          revisits.emplace(std::move(place), std::move(branch));
        }
        return;
      }
      live += starting.size();
      busy += starting.size();
    }
    join_rounds(starting);
    for (BranchPoint& branch : starting) launch(std::move(branch));
  }

  /// The episode is counted in `live` and `busy` already.
  void launch(BranchPoint start) {
    ++shared.progress.episodes_started;
    auto held = std::make_shared<BranchPoint>(std::move(start));  // enqueue() copies its functor
    arena.enqueue([this, held] {
      run_episode(shared, std::move(*held));
      {
        std::lock_guard lock(mutex);
        --live;
      }
      admit();
      task_over();
    });
  }

  /// Nothing of the farm is touched by a task after this.
  void task_over() {
    std::lock_guard lock(mutex);
    if (--busy == 0) idle.notify_all();
  }

  /// Starts what may start now.
  void admit() {
    std::deque<BranchPoint> starting, abandoned;
    {
      std::lock_guard lock(mutex);
      if (shared.cancelled) {
        for (Batch& batch : waiting)
          std::move(batch.roots.begin(), batch.roots.end(), std::back_inserter(abandoned));
        waiting.clear();
        for (auto& [place, branch] : revisits) abandoned.push_back(std::move(branch));
        revisits.clear();
      } else {
        starting = take_admissible();
        live += starting.size();
        busy += starting.size();
      }
    }
    for (BranchPoint& root : abandoned) abandon_episode(shared, std::move(root));
    join_rounds(starting);
    for (BranchPoint& root : starting) {
      root.tree->started();
      launch(std::move(root));
    }
  }

  /// Under the lock. Deterministic: a wave of whole trees when nothing is live, so that what shares
  /// a round depends on the requests alone. Otherwise: roots one by one while there is room.
  std::deque<BranchPoint> take_admissible() {
    std::deque<BranchPoint> taken;
    if (live == 0 && !revisits.empty()) {
      for (auto& [place, branch] : revisits) taken.push_back(std::move(branch));
      revisits.clear();
      return taken;
    }
    if (waiting.empty() || (shared.options.deterministic && live > 0)) return taken;
    while (!waiting.empty()) {
      auto& roots = waiting.front().roots;
      size_t count = 1;
      if (shared.options.deterministic)
        while (count < roots.size() && roots[count].tree == roots[0].tree) ++count;
      const bool fits = live + taken.size() + count <= shared.options.max_live;
      const bool alone = live + taken.size() == 0;  // the largest tree must get in, too
      if (!fits && !alone) break;
      for (; count > 0; --count) {
        taken.push_back(std::move(roots.front()));
        roots.pop_front();
      }
      if (!roots.empty()) continue;
      waiting.pop_front();
      if (shared.options.deterministic) break;
    }
    return taken;
  }

  /// All of a wave before any of it starts.
  void join_rounds(std::deque<BranchPoint>& starting) {
    size_t sampling = 0;
    for (const BranchPoint& root : starting) sampling += root.tree->request().script ? 0 : 1;
    if (sampling == 0) return;
    shared.parts.policy->join(sampling);
    for (BranchPoint& root : starting)
      if (!root.tree->request().script) root.participant.emplace(shared.parts.policy);
  }

  void admit_on_worker() {
    {
      std::lock_guard lock(mutex);
      ++busy;
    }
    arena.enqueue([this] {
      admit();
      task_over();
    });
  }

  void wait_idle() {
    std::unique_lock lock(mutex);
    idle.wait(lock, [&] { return busy == 0 && waiting.empty() && revisits.empty(); });
  }
};

Farm::Farm(FarmParts parts, FarmOptions options)
    : impl_(std::make_unique<Impl>(std::move(parts), std::move(options))) {}

Farm::~Farm() {
  cancel();
  impl_->wait_idle();
}

void Farm::start(std::vector<TreeRequest> requests, TreeQueue& out) {
  Batch batch;
  for (TreeRequest& request : requests) {
    if (request.roots < 1)
      throw common::ConfigError("roll out " + request.task->name + ": " +
                                std::to_string(request.roots) + " root episodes, allowed: >= 1");
    if (!request.script && !impl_->shared.parts.policy)
      throw common::ConfigError("roll out " + request.task->name +
                                ": neither a policy nor a script is given");
    const int roots = request.roots;
    auto tree = std::make_shared<TreeState>(impl_->shared, std::move(request), out);
    if (tree->request().from) {
      batch.roots.push_back(continue_recorded(tree, *impl_->shared.harness));
      continue;
    }
    for (int root = 0; root < roots; ++root) {
      BranchPoint start;
      start.tree = tree;
      start.root = start.branch = root;
      start.parent = tree->prompt();
      start.context = tree->prompt_context();
      batch.roots.push_back(std::move(start));
    }
  }
  if (batch.roots.empty()) return;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->waiting.push_back(std::move(batch));
  }
  impl_->admit_on_worker();
}

void Farm::wait() {
  impl_->wait_idle();
  std::lock_guard lock(impl_->mutex);
  if (impl_->error) std::rethrow_exception(std::exchange(impl_->error, nullptr));
}

void Farm::cancel() {
  if (impl_->shared.cancelled.exchange(true)) return;
  impl_->admit_on_worker();
}

const FarmProgress& Farm::progress() const { return impl_->shared.progress; }

std::vector<tree::Tree> roll_out(Farm& farm, std::vector<TreeRequest> requests,
                                 const std::function<void(const tree::Tree&)>& on_sealed) {
  const size_t count = requests.size();
  TreeQueue sealed(std::max<size_t>(count, 1));
  farm.start(std::move(requests), sealed);
  std::vector<tree::Tree> trees;
  trees.reserve(count);
  while (trees.size() < count) {
    std::optional<tree::Tree> next = sealed.pop();
    if (!next) break;
    trees.push_back(std::move(*next));
    if (on_sealed) on_sealed(trees.back());
  }
  farm.wait();
  std::sort(trees.begin(), trees.end(),
            [](const tree::Tree& a, const tree::Tree& b) { return a.index < b.index; });
  return trees;
}

}  // namespace espalier::rollout
