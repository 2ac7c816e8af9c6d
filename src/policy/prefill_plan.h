// Which prefix tokens of a batch of requests must be computed, each once, and in what order. No
// torch in here.
#pragma once

#include <functional>
#include <vector>

#include "policy/context.h"

namespace espalier::policy {

/// The spans of a context from the root on, empty ones left out. Borrowed from the context.
std::vector<const Context*> spans_of(const Context& context);

/// First position of a span within its context.
inline size_t span_begin(const Context& span) { return span.length() - span.tokens().size(); }

/// Consecutive uncomputed tokens [begin, end) of one path, ending at the latest where branches of
/// the batch part.
struct PrefillSegment {
  std::vector<const Context*> spans;  // that hold the tokens, root to leaf
  size_t begin = 0, end = 0;          // positions
  size_t owner = 0;                   // index of the first request that needs it
};

struct PrefillPlan {
  /// Segments of a wave depend on earlier waves only.
  std::vector<std::vector<PrefillSegment>> waves;
  /// Per request: positions [0, n) whose KV exists already.
  std::vector<size_t> covered;
  /// Per request: tokens in the segments that it owns.
  std::vector<size_t> computed;
};

/// Tokens of a span whose KV exists already, counted from the span's begin.
using Coverage = std::function<size_t(const Context& span)>;

/// Every request needs the KV of all tokens of its context but the last one, which its first decode
/// step computes (it needs that token's logits anyway).
PrefillPlan plan_prefill(const std::vector<const Context*>& contexts, const Coverage& coverage);

}  // namespace espalier::policy
