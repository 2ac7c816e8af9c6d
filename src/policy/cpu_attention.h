// Attention of single queries over dense KV rows on the CPU, in float32, without padding. No torch
// in here.
#pragma once

#include <cstdint>

namespace espalier::policy {

/// Token i stands in row rows[i] at positions[i] and sees the positions 0 … positions[i] of its
/// row. Query head h reads KV head h / (heads / kv_heads). Scores are scaled by 1/sqrt(head_dim).
/// Borrowed memory.
struct RowAttentionWork {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  const float* queries = nullptr;  // [tokens, heads, head_dim]
  float* out = nullptr;            // [tokens, heads, head_dim]
  const int64_t* rows = nullptr;
  const int64_t* positions = nullptr;
  const float* keys = nullptr;  // at row · row_stride + kv_head · head_stride: [position, head_dim]
  const float* values = nullptr;
  int64_t row_stride = 0, head_stride = 0;
};

/// Head sizes there is a kernel for: 16, 32, 64, 128.
bool has_row_attention(int64_t head_dim);

/// Computes `out` of tokens [begin, end). The instruction set is chosen by the processor; results
/// are the same for the same processor type, whatever the partition into ranges.
void attend_rows(const RowAttentionWork& work, int64_t begin, int64_t end);

}  // namespace espalier::policy
