// Which attention calls a packed micro-batch needs. No torch in this header.
//
// Every segment's tokens attend causally to themselves (a causal piece); all tokens below a
// segment, one contiguous range, attend to the segment's tokens without a mask (a prefix piece).
// Every pair of a token and an ancestor-or-self is in exactly one piece. Pieces of similar extents,
// and of the same level, are padded into one group: one kernel call.
#pragma once

#include <cstdint>
#include <vector>

#include "learner/packing.h"

namespace espalier::learner {

/// One padded call over `batch` pieces. Padding repeats a piece's last token: its scores are some
/// real token's, so nothing overflows; its results are dropped and its incoming gradient is zero.
struct PieceGroup {
  bool causal = false;  // keys are the queries
  int64_t batch = 0;
  int64_t queries = 0, keys = 0;      // extents after padding
  std::vector<int64_t> query_rows;    // [batch · queries] packed token of each row
  std::vector<int64_t> key_rows;      // [batch · keys]
  std::vector<bool> key_is_padding;   // [batch · keys]; empty: no key is, or causality hides it
  std::vector<int64_t> query_tokens;  // the real ones: packed token …
  std::vector<int64_t> query_slots;   // … and its row; no token occurs twice
  std::vector<int64_t> key_tokens, key_slots;
};

struct AttentionPlan {
  int64_t tokens = 0;
  /// Causal groups first: each token is a query of exactly one of them.
  std::vector<PieceGroup> groups;
};

AttentionPlan plan_attention(const std::vector<Segment>& segments, int64_t tokens);

}  // namespace espalier::learner
