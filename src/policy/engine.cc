#include "policy/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/error.h"
#include "policy/batch_runner.h"
#include "policy/device.h"
#include "policy/model_io.h"
#include "policy/sampler.h"

namespace espalier::policy {
using common::Cancelled;
using common::PolicyError;
namespace {

void fail(Row& row, const std::exception_ptr& error) {
  if (row.entropy_only) {
    row.prefilled(error);
  } else {
    row.generated(error);
  }
}

void succeed(Row& row) {
  if (row.entropy_only) {
    row.prefilled(
        Prefilled{row.first_entropy, row.result.prefill_tokens, row.result.cached_tokens});
  } else {
    row.generated(std::move(row.result));
  }
}

/// What went wrong as a PolicyError, whatever was thrown.
std::exception_ptr as_policy_error() {
  try {
    throw;
  } catch (const PolicyError&) {
    return std::current_exception();
  } catch (const std::exception& error) {
    return std::make_exception_ptr(PolicyError(std::string("generate: ") + error.what()));
  }
}

class InProcessEngine : public Engine {
 public:
  InProcessEngine(WeightsPtr weights, const EngineOptions& options)
      : options_(options),
        device_(resolve_device(options.device)),
        shape_(shape_of(weights)),
        runner_(device_) {
    if (options_.max_batch == 0)
      throw PolicyError("make engine: max_batch is 0; allowed: 1 or more");
    next_weights_ = to_device(weights, device_);
    thread_ = std::thread([this] { run(); });
  }

  ~InProcessEngine() override { close(); }

  void generate(GenerateRequest request, common::Completion<Generation> done) override {
    auto row = std::make_unique<Row>();
    row->request = std::move(request);
    row->generated = std::move(done);
    submit(std::move(row));
  }

  void prefill(GenerateRequest request, common::Completion<Prefilled> done) override {
    auto row = std::make_unique<Row>();
    row->request = std::move(request);
    row->entropy_only = true;
    row->prefilled = std::move(done);
    submit(std::move(row));
  }

  void publish(WeightsPtr weights, uint64_t version) override {
    if (shape_of(weights) != shape_) {
      throw PolicyError("publish version " + std::to_string(version) +
                        ": the weights' shape differs from the engine's");
    }
    WeightsPtr moved = to_device(weights, device_);
    std::lock_guard lock(mutex_);
    next_weights_ = std::move(moved);
    version_ = version;
  }

  uint64_t version() const override {
    std::lock_guard lock(mutex_);
    return version_;
  }

  size_t context_limit() const override {
    return static_cast<size_t>(shape_.max_position_embeddings);
  }

  void join(size_t participants) override {
    std::lock_guard lock(mutex_);
    participants_ += participants;
  }

  void leave(size_t participants) override {
    std::lock_guard lock(mutex_);
    ESPALIER_CHECK(participants_ >= participants, "leave() without join()");
    participants_ -= participants;
    wake_.notify_one();
  }

  void close() override {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
      wake_.notify_one();
      // A completion may close the engine; a later close() or the destructor joins the thread.
      if (std::this_thread::get_id() == engine_thread_) return;
    }
    std::lock_guard lock(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void submit(RowPtr row) {
    {
      std::lock_guard lock(mutex_);
      if (!closed_) {
        waiting_.push_back(std::move(row));
        wake_.notify_one();
        return;
      }
    }
    fail(*row, cancelled());
  }

  static std::exception_ptr cancelled() {
    return std::make_exception_ptr(Cancelled("generate: the engine is closed"));
  }

  void run() {
    // Inherits torch's thread count: the pool's setting is one of each thread.
    use_torch_threads();
    {
      std::lock_guard lock(mutex_);
      engine_thread_ = std::this_thread::get_id();
    }
    while (options_.deterministic ? run_round() : run_iteration()) {
    }
    std::vector<RowPtr> rows = runner_.active() > 0 ? runner_.clear() : std::vector<RowPtr>();
    {
      std::lock_guard lock(mutex_);
      std::move(waiting_.begin(), waiting_.end(), std::back_inserter(rows));
      waiting_.clear();
    }
    for (RowPtr& row : rows) fail(*row, cancelled());
  }

  // ---- throughput: continuous batching ----

  /// Admits what waits, decodes one token for all. False when closed.
  bool run_iteration() {
    std::vector<RowPtr> batch;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return closed_ || !waiting_.empty() || runner_.active() > 0; });
      if (closed_) return false;
      // Rows in work finish under the weights that they started with; new ones wait for that.
      if (!next_weights_ || runner_.active() == 0) {
        apply_weights();
        while (!waiting_.empty() && runner_.active() + batch.size() < options_.max_batch) {
          batch.push_back(std::move(waiting_.front()));
          waiting_.pop_front();
        }
      }
    }
    std::vector<RowPtr> settled = decode_once(screen(std::move(batch)));
    for (RowPtr& row : settled) succeed(*row);
    return true;
  }

  // ---- deterministic: lock-step rounds ----

  /// One round: everything that waits once all participants do, in order, to completion. False when
  /// closed.
  bool run_round() {
    std::vector<RowPtr> batch;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(
          lock, [&] { return closed_ || (!waiting_.empty() && waiting_.size() >= participants_); });
      if (closed_) return false;
      apply_weights();
      std::move(waiting_.begin(), waiting_.end(), std::back_inserter(batch));
      waiting_.clear();
    }
    std::sort(batch.begin(), batch.end(), [](const RowPtr& a, const RowPtr& b) {
      return std::tuple(a->request.order, a->request.key.value, a->entropy_only) <
             std::tuple(b->request.order, b->request.key.value, b->entropy_only);
    });
    for (size_t begin = 0; begin < batch.size(); begin += options_.max_batch) {
      const size_t end = std::min(batch.size(), begin + options_.max_batch);
      run_chunk({std::make_move_iterator(batch.begin() + static_cast<ptrdiff_t>(begin)),
                 std::make_move_iterator(batch.begin() + static_cast<ptrdiff_t>(end))});
    }
    return true;
  }

  void run_chunk(std::vector<RowPtr> chunk) {
    std::vector<RowPtr> finished(chunk.size());
    std::vector<std::exception_ptr> errors(chunk.size());
    for (size_t i = 0; i < chunk.size(); ++i) chunk[i]->index = i;
    auto keep = [&](RowPtr row, std::exception_ptr error) {
      const size_t i = row->index;
      errors[i] = error;
      finished[i] = std::move(row);
    };
    std::vector<RowPtr> fresh = screen(std::move(chunk), keep);
    do {
      for (RowPtr& row : decode_once(std::exchange(fresh, {}), keep)) keep(std::move(row), nullptr);
    } while (runner_.active() > 0 && !is_closed());
    if (runner_.active() > 0) {
      for (RowPtr& row : runner_.clear()) keep(std::move(row), cancelled());
    }
    for (size_t i = 0; i < finished.size(); ++i) {
      if (errors[i]) {
        fail(*finished[i], errors[i]);
      } else {
        succeed(*finished[i]);
      }
    }
  }

  bool is_closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }

  // ---- both ----

  using Settle = std::function<void(RowPtr, std::exception_ptr)>;

  static void settle_at_once(RowPtr row, std::exception_ptr error) {
    if (error) {
      fail(*row, error);
    } else {
      succeed(*row);
    }
  }

  /// The mutex is held.
  void apply_weights() {
    if (!next_weights_) return;
    runner_.set_weights(std::exchange(next_weights_, nullptr), version_);
    running_version_ = version_;
  }

  /// Settles the rows that cannot be decoded, returns the others.
  std::vector<RowPtr> screen(std::vector<RowPtr> rows, const Settle& settle = settle_at_once) {
    std::vector<RowPtr> good;
    for (RowPtr& row : rows) {
      try {
        check_request(*row);
        if (row->request.context->length() < context_limit()) {
          good.push_back(std::move(row));
          continue;
        }
        row->result.stop = StopReason::context_full;
        row->result.policy_version = running_version_;
        row->result.context = row->request.context;
        settle(std::move(row), nullptr);
      } catch (const PolicyError&) {
        settle(std::move(row), std::current_exception());
      }
    }
    return good;
  }

  void check_request(const Row& row) const {
    if (!row.request.context || row.request.context->length() == 0) {
      throw PolicyError("generate: the context is empty; allowed: 1 token and more");
    }
    const size_t length = row.request.context->length();
    if (length > context_limit()) {
      throw PolicyError("generate: the context has " + std::to_string(length) +
                        " tokens; allowed: up to " + std::to_string(context_limit()));
    }
    if (!row.entropy_only) check_sampling(row.request.sampling);
    for (const Context* span = row.request.context.get(); span; span = span->parent().get()) {
      for (Token token : span->tokens()) {
        if (token < 0 || token >= shape_.vocab_size) {
          throw PolicyError("generate: token " + std::to_string(token) + "; allowed: 0 to " +
                            std::to_string(shape_.vocab_size - 1));
        }
      }
    }
  }

  /// Admits rows and decodes one token for the whole batch; returns what finished. An error settles
  /// every row in work.
  std::vector<RowPtr> decode_once(std::vector<RowPtr> fresh,
                                  const Settle& settle = settle_at_once) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<RowPtr> done;
    EngineStats step;
    try {
      runner_.admit(std::move(fresh));
      if (runner_.active() > 0) {
        step.rounds = 1;
        done = runner_.step();
      }
    } catch (...) {
      const std::exception_ptr error = as_policy_error();
      for (RowPtr& row : runner_.clear()) settle(std::move(row), error);
    }
    for (const RowPtr& row : done) {
      step.generated_tokens += row->result.tokens.size();
      step.prefill_tokens += row->result.prefill_tokens;
      step.cached_tokens += row->result.cached_tokens;
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::lock_guard lock(mutex_);
    stats_.rounds += step.rounds;
    stats_.generated_tokens += step.generated_tokens;
    stats_.prefill_tokens += step.prefill_tokens;
    stats_.cached_tokens += step.cached_tokens;
    stats_.busy_seconds += elapsed.count();
    return done;
  }

  const EngineOptions options_;
  const std::string device_;
  const ModelShape shape_;
  BatchRunner runner_;            // the engine thread's
  uint64_t running_version_ = 0;  // the engine thread's

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<RowPtr> waiting_;
  size_t participants_ = 0;
  bool closed_ = false;
  WeightsPtr next_weights_;  // published, not yet in use
  uint64_t version_ = 0;
  EngineStats stats_;
  std::thread::id engine_thread_;

  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(WeightsPtr weights, const EngineOptions& options) {
  return std::make_unique<InProcessEngine>(std::move(weights), options);
}

}  // namespace espalier::policy
