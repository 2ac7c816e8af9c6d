#include "policy/batch_runner.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <functional>

#include "common/error.h"
#include "policy/cached_attention.h"
#include "policy/kv_cache.h"
#include "policy/prefill_plan.h"
#include "policy/sampler.h"
#include "policy/transformer.h"
#include "policy/weights.h"

namespace espalier::policy {
using common::PolicyError;
namespace {

template <class Function>
auto translating(Function&& function) {
  try {
    return function();
  } catch (const c10::Error& error) {
    throw PolicyError(std::string("generate: ") + error.what_without_backtrace());
  }
}

/// A row of the dense batch.
struct Slot {
  RowPtr row;
  int64_t filled = 0;    // positions whose KV stands in the row
  int64_t position = 0;  // of the pending token
  Token pending = 0;     // the token the next step feeds

  const Context& context() const { return *row->request.context; }
};

}  // namespace

struct BatchRunner::Impl {
  explicit Impl(std::string device_name) : device(device_name) {}

  at::Device device;
  WeightsPtr weights;
  uint64_t version = 0;
  std::shared_ptr<const KvSalt> salt;
  KvRows kv;
  std::vector<Slot> slots;

  // ---- span caches ----

  /// Null when the span has no KV of these weights.
  SpanCache* find_cache(const Context& span) const {
    auto* cache = static_cast<SpanCache*>(span.cache.get());
    return cache && cache->salt == salt ? cache : nullptr;
  }

  int64_t covered(const Context& span) const {
    const SpanCache* cache = find_cache(span);
    return cache ? cache->covered : 0;
  }

  /// Copies positions [begin, end) of a row, which lie within the span, into the span's cache.
  void store(const Context& span, int64_t row, int64_t begin, int64_t end) {
    SpanCache* cache = find_cache(span);
    if (!cache) {
      auto fresh = std::make_shared<SpanCache>();
      fresh->policy_version = version;
      fresh->salt = salt;
      const ModelShape& shape = weights->shape;
      fresh->kv = at::empty({shape.num_hidden_layers, 2, shape.num_key_value_heads,
                             static_cast<int64_t>(span.tokens().size()), shape.head_dim},
                            options());
      cache = fresh.get();
      span.cache = std::move(fresh);
    }
    const int64_t offset = begin - static_cast<int64_t>(span_begin(span));
    cache->kv.narrow(3, offset, end - begin).copy_(kv.span(row, begin, end));
    cache->covered = offset + end - begin;
  }

  /// Brings a row's KV up to position `end` from its context's caches.
  void fill(size_t slot_index, int64_t end) {
    Slot& slot = slots[slot_index];
    if (slot.filled >= end) return;
    for (const Context* span : spans_of(slot.context())) {
      const int64_t span_end = std::min<int64_t>(span->length(), end);
      if (span_end <= slot.filled) continue;
      const SpanCache* cache = find_cache(*span);
      const int64_t offset = slot.filled - static_cast<int64_t>(span_begin(*span));
      ESPALIER_CHECK(cache && cache->covered >= offset + span_end - slot.filled,
                     "KV of a span is missing");
      kv.span(slot_index, slot.filled, span_end)
          .copy_(cache->kv.narrow(3, offset, span_end - slot.filled));
      slot.filled = span_end;
      if (slot.filled == end) return;
    }
  }

  // ---- tensors ----

  at::TensorOptions options() const {
    return weights->at("model.embed_tokens.weight").options().requires_grad(false);
  }
  at::Tensor indices(const std::vector<int64_t>& values) const {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  }
  // ---- prefill ----

  void admit(std::vector<RowPtr> rows) {
    std::vector<const Context*> contexts;
    for (const RowPtr& row : rows) contexts.push_back(row->request.context.get());
    const PrefillPlan plan =
        plan_prefill(contexts, [this](const Context& span) { return covered(span); });
    const std::vector<size_t> slot_of = place(std::move(rows), plan);
    for (size_t i = 0; i < slot_of.size(); ++i)
      fill(slot_of[i], static_cast<int64_t>(plan.covered[i]));
    for (const auto& wave : plan.waves) run_wave(wave, slot_of);
    for (size_t index : slot_of) fill(index, slots[index].position);
  }

  /// Slots for new rows: owners of the first wave first, so that its rows are one range. Returns
  /// the slot of each row.
  std::vector<size_t> place(std::vector<RowPtr> rows, const PrefillPlan& plan) {
    std::vector<size_t> order;
    std::vector<bool> placed(rows.size(), false);
    auto add = [&](size_t i) {
      if (!placed[i]) order.push_back(i);
      placed[i] = true;
    };
    if (!plan.waves.empty()) {
      for (const PrefillSegment& segment : plan.waves[0]) add(segment.owner);
    }
    for (size_t i = 0; i < rows.size(); ++i) add(i);
    std::vector<size_t> slot_of(rows.size());
    int64_t tokens = 1;
    for (size_t i : order) {
      Row& row = *rows[i];
      const size_t length = row.request.context->length();
      row.result.policy_version = version;
      row.result.prefill_tokens = plan.computed[i] + 1;
      row.result.cached_tokens = length - row.result.prefill_tokens;
      const size_t new_tokens = row.entropy_only ? 0 : row.request.sampling.max_new_tokens;
      tokens = std::max<int64_t>(tokens, std::min<size_t>(length + new_tokens, limit()));
      slot_of[i] = slots.size();
      Slot slot{std::move(rows[i]), 0, static_cast<int64_t>(length) - 1, 0};
      slot.pending = spans_of(slot.context()).back()->tokens().back();
      slots.push_back(std::move(slot));
    }
    kv.reserve(static_cast<int64_t>(slots.size()), tokens);
    return slot_of;
  }

  size_t limit() const { return static_cast<size_t>(weights->shape.max_position_embeddings); }

  void run_wave(const std::vector<PrefillSegment>& wave, const std::vector<size_t>& slot_of) {
    std::vector<size_t> rows;
    for (const PrefillSegment& segment : wave) {
      rows.push_back(slot_of[segment.owner]);
      fill(rows.back(), static_cast<int64_t>(segment.begin));
    }
    prefill(wave, rows);
    for (size_t i = 0; i < wave.size(); ++i) {
      for (const Context* span : wave[i].spans) {
        const size_t begin = std::max(wave[i].begin, span_begin(*span));
        store(*span, static_cast<int64_t>(rows[i]), static_cast<int64_t>(begin),
              static_cast<int64_t>(std::min(wave[i].end, span->length())));
      }
      slots[rows[i]].filled = static_cast<int64_t>(wave[i].end);
    }
  }

  void prefill(const std::vector<PrefillSegment>& wave, const std::vector<size_t>& rows) {
    std::vector<int64_t> tokens;
    TokenPlaces places;
    for (size_t i = 0; i < wave.size(); ++i) {
      for (const Context* span : wave[i].spans) {
        const size_t base = span_begin(*span);
        const size_t end = std::min(wave[i].end, span->length());
        for (size_t position = std::max(wave[i].begin, base); position < end; ++position) {
          tokens.push_back(span->tokens()[position - base]);
          places.rows.push_back(static_cast<int64_t>(rows[i]));
          places.positions.push_back(static_cast<int64_t>(position));
        }
      }
    }
    forward(tokens, places);
  }

  at::Tensor forward(const std::vector<int64_t>& tokens, const TokenPlaces& places) {
    CachedAttention attention(kv, weights->shape, places, options());
    return forward_hidden(*weights, indices(tokens), attention.positions(), std::ref(attention));
  }

  // ---- decode ----

  struct Distributions {
    at::Tensor log_probs, probs, entropies;  // float32 on the CPU: [rows, vocab] twice, [rows]
  };

  std::vector<RowPtr> step() {
    const Distributions next = decode();
    const int64_t vocab = next.log_probs.size(1);
    const float* log_probs = next.log_probs.const_data_ptr<float>();
    const float* probs = next.probs.const_data_ptr<float>();
    const float* entropies = next.entropies.const_data_ptr<float>();
    std::vector<size_t> done;
    for (size_t i = 0; i < slots.size(); ++i) {
      const size_t offset = i * static_cast<size_t>(vocab);
      if (advance(slots[i], {log_probs + offset, static_cast<size_t>(vocab)},
                  {probs + offset, static_cast<size_t>(vocab)}, entropies[i])) {
        done.push_back(i);
      }
    }
    return retire(done);
  }

  Distributions decode() {
    std::vector<int64_t> tokens;
    TokenPlaces places;
    for (size_t i = 0; i < slots.size(); ++i) {
      tokens.push_back(slots[i].pending);
      places.rows.push_back(static_cast<int64_t>(i));
      places.positions.push_back(slots[i].position);
    }
    const at::Tensor hidden = forward(tokens, places);
    const at::Tensor logits = lm_head(*weights, hidden);
    const auto wide = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor log_probs = at::log_softmax(logits.to(wide), -1);
    const at::Tensor probs = log_probs.exp();
    const at::Tensor entropies = (probs * log_probs).sum(-1).neg();
    const auto host = at::TensorOptions().device(at::kCPU).dtype(at::kFloat);
    return {log_probs.to(host).contiguous(), probs.to(host).contiguous(),
            entropies.to(host).contiguous()};
  }

  /// Adds the next token to a row. True when the row is done.
  bool advance(Slot& slot, std::span<const float> log_probs, std::span<const float> probs,
               float entropy) {
    Row& row = *slot.row;
    Generation& result = row.result;
    const SamplingOptions& sampling = row.request.sampling;
    slot.filled = ++slot.position;
    if (result.tokens.empty()) row.first_entropy = entropy;
    if (row.entropy_only) return true;
    const Token token =
        sample(log_probs, probs, sampling, common::uniform(row.request.key, result.tokens.size()));
    result.tokens.push_back(token);
    result.log_probs.push_back(log_probs[static_cast<size_t>(token)]);
    result.entropies.push_back(entropy);
    slot.pending = token;
    const auto& stops = sampling.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      result.stop = StopReason::stop_token;
    } else if (result.tokens.size() >= static_cast<size_t>(sampling.max_new_tokens)) {
      result.stop = StopReason::max_tokens;
    } else if (slot.context().length() + result.tokens.size() >= limit()) {
      result.stop = StopReason::context_full;
    } else {
      return false;
    }
    return true;
  }

  /// Writes the rows' new KV to their contexts and closes the gaps that they leave in the batch.
  std::vector<RowPtr> retire(const std::vector<size_t>& done) {
    std::vector<RowPtr> rows;
    for (size_t i : done) keep_kv(i);
    for (size_t i : done) rows.push_back(std::move(slots[i].row));
    for (auto it = done.rbegin(); it != done.rend(); ++it) {
      const size_t last = slots.size() - 1;
      if (*it != last) {
        kv.copy_row(static_cast<int64_t>(last), static_cast<int64_t>(*it), slots[last].filled);
        slots[*it] = std::move(slots[last]);
      }
      slots.pop_back();
    }
    return rows;
  }

  void keep_kv(size_t index) {
    Row& row = *slots[index].row;
    const ContextPtr& context = row.request.context;
    const int64_t length = static_cast<int64_t>(context->length()),
                  slot = static_cast<int64_t>(index);
    const Context& last_span = *spans_of(*context).back();
    if (covered(last_span) == static_cast<int64_t>(last_span.tokens().size()) - 1) {
      store(last_span, slot, length - 1, length);
    }
    if (row.entropy_only) return;
    row.result.context = Context::extend(context, row.result.tokens);
    // The last token was sampled but never fed: its KV is computed when the path goes on.
    const int64_t fed = static_cast<int64_t>(row.result.tokens.size()) - 1;
    if (fed > 0) store(*row.result.context, slot, length, length + fed);
  }
};

BatchRunner::BatchRunner(std::string device) : impl_(std::make_unique<Impl>(std::move(device))) {}
BatchRunner::~BatchRunner() = default;

void BatchRunner::set_weights(WeightsPtr weights, uint64_t version) {
  impl_->weights = std::move(weights);
  impl_->version = version;
  impl_->salt = std::make_shared<const KvSalt>();
  impl_->kv = KvRows(impl_->weights->shape, impl_->options());
}

void BatchRunner::admit(std::vector<RowPtr> rows) {
  if (rows.empty()) return;
  const c10::InferenceMode inference;
  translating([&] { impl_->admit(std::move(rows)); });
}

std::vector<RowPtr> BatchRunner::step() {
  const c10::InferenceMode inference;
  return translating([&] { return impl_->step(); });
}

std::vector<RowPtr> BatchRunner::clear() {
  std::vector<RowPtr> rows;
  for (Slot& slot : impl_->slots) rows.push_back(std::move(slot.row));
  impl_->slots.clear();
  impl_->kv = KvRows(impl_->weights->shape, impl_->options());
  return rows;
}

size_t BatchRunner::active() const { return impl_->slots.size(); }

WeightsPtr to_device(const WeightsPtr& weights, const std::string& device) {
  return translating([&]() -> WeightsPtr {
    auto moved = std::make_shared<Weights>();
    moved->shape = weights->shape;
    for (const auto& [name, tensor] : weights->tensors) {
      moved->tensors.emplace(name, tensor.detach().to(at::Device(device)));
    }
    return moved;
  });
}

}  // namespace espalier::policy
