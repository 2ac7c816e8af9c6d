#include "learner/attention_plan.h"

#include <algorithm>
#include <bit>
#include <tuple>

namespace espalier::learner {
namespace {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

struct Piece {
  Range queries, keys;
  int level = -1;  // -1: causal
};

// A piece with fewer queries than this share of its group's starts a new group: padding costs up to
// the inverse, a call costs tens of microseconds.
constexpr double kMinFill = 0.75;

/// Prefix pieces whose key counts lie in the same octave may share a group.
int key_class(const Piece& piece) {
  return piece.level < 0 ? 0 : std::bit_width(static_cast<uint64_t>(piece.keys.size()));
}

bool fits(const Piece& piece, const Piece& largest) {
  return piece.level == largest.level && key_class(piece) == key_class(largest) &&
         static_cast<double>(piece.queries.size()) >=
             kMinFill * static_cast<double>(largest.queries.size());
}

/// Rows of one piece, padded to `extent` by its last token.
void append_rows(const Range& range, int64_t extent, std::vector<int64_t>& rows,
                 std::vector<int64_t>& tokens, std::vector<int64_t>& slots) {
  for (int64_t i = 0; i < extent; ++i) {
    const int64_t token = std::min(range.begin + i, range.end - 1);
    if (i < range.size()) {
      tokens.push_back(token);
      slots.push_back(static_cast<int64_t>(rows.size()));
    }
    rows.push_back(token);
  }
}

PieceGroup make_group(const std::vector<Piece>& pieces) {
  PieceGroup group;
  group.causal = pieces.front().level < 0;
  group.batch = static_cast<int64_t>(pieces.size());
  bool padded_keys = false;
  for (const Piece& piece : pieces) {
    group.queries = std::max(group.queries, piece.queries.size());
    padded_keys |= piece.keys.size() != pieces.front().keys.size();
    group.keys = std::max(group.keys, piece.keys.size());
  }
  for (const Piece& piece : pieces) {
    append_rows(piece.queries, group.queries, group.query_rows, group.query_tokens,
                group.query_slots);
    append_rows(piece.keys, group.keys, group.key_rows, group.key_tokens, group.key_slots);
    if (!padded_keys || group.causal) continue;
    for (int64_t i = 0; i < group.keys; ++i) group.key_is_padding.push_back(i >= piece.keys.size());
  }
  return group;
}

}  // namespace

AttentionPlan plan_attention(const std::vector<Segment>& segments, int64_t tokens) {
  std::vector<Piece> pieces;
  for (const Segment& segment : segments) {
    const Range own{segment.begin, segment.end}, below{segment.end, segment.subtree_end};
    if (own.size() > 0) pieces.push_back({own, own, -1});
    if (own.size() > 0 && below.size() > 0) pieces.push_back({below, own, segment.level});
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::tuple(a.level, key_class(a), -a.queries.size()) <
           std::tuple(b.level, key_class(b), -b.queries.size());
  });
  AttentionPlan plan;
  plan.tokens = tokens;
  std::vector<Piece> group;
  for (const Piece& piece : pieces) {
    if (!group.empty() && !fits(piece, group.front())) {
      plan.groups.push_back(make_group(group));
      group.clear();
    }
    group.push_back(piece);
  }
  if (!group.empty()) plan.groups.push_back(make_group(group));
  return plan;
}

}  // namespace espalier::learner
