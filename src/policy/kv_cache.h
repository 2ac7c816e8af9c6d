// Keys and values: per span, kept with its context; and per row, dense, for the batch being
// decoded. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "policy/context.h"
#include "policy/model_config.h"

namespace espalier::policy {

/// Identity of one set of weights in one engine; KV of another salt is never used.
struct KvSalt {};

/// KV of one span's tokens [0, covered): stored once, shared by every branch below the span.
struct SpanCache : ContextCache {
  std::shared_ptr<const KvSalt> salt;
  at::Tensor kv;  // [layers, 2, kv_heads, span tokens, head_dim]
  int64_t covered = 0;
};

/// Dense KV of the rows in work: [layers, 2, rows, kv_heads, tokens, head_dim]; position = index on
/// the token axis. Entries never written are zero, so that masked positions cannot spoil a sum.
/// Thread contract: one owner.
class KvRows {
 public:
  KvRows() = default;
  KvRows(const ModelShape& shape, at::TensorOptions options) : shape_(shape), options_(options) {}

  /// Room for so many rows and tokens; what is there stays.
  void reserve(int64_t rows, int64_t tokens);
  /// Stores k and v [N, kv_heads, head_dim] of N tokens at (row, position), both [N] int64.
  void write(int layer, const at::Tensor& rows, const at::Tensor& positions, const at::Tensor& k,
             const at::Tensor& v);
  /// Views [rows, kv_heads, tokens, head_dim] of all there is room for.
  at::Tensor keys(int layer) const { return data_[layer][0]; }
  at::Tensor values(int layer) const { return data_[layer][1]; }
  /// View [layers, 2, kv_heads, end - begin, head_dim].
  at::Tensor span(int64_t row, int64_t begin, int64_t end) const;
  void copy_row(int64_t from, int64_t to, int64_t tokens);

 private:
  ModelShape shape_;
  at::TensorOptions options_;
  at::Tensor data_;
};

}  // namespace espalier::policy
