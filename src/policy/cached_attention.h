// Attention of packed tokens over the dense KV of the rows that they stand in. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "policy/kv_cache.h"
#include "policy/model_config.h"

namespace espalier::policy {

/// Where N packed tokens stand; tokens of a row follow each other, positions ascending by one.
struct TokenPlaces {
  std::vector<int64_t> rows, positions;
};

/// An Attention (policy/transformer.h): stores each token's k and v at its place, then lets it see
/// positions 0 … its own of its row. Float32 on the CPU goes through the kernel of cpu_attention.h;
/// everything else through the library's fused attention on a padded batch. Thread contract: one
/// owner; `kv` is borrowed.
class CachedAttention {
 public:
  CachedAttention(KvRows& kv, const ModelShape& shape, const TokenPlaces& places,
                  at::TensorOptions options);

  at::Tensor operator()(int layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  /// [N] int64, on the device.
  const at::Tensor& positions() const { return positions_; }

 private:
  struct Padding {
    int64_t rows = 0, width = 0;  // queries a row
    int64_t first_row = 0;
    bool contiguous = true;              // the rows are first_row, first_row + 1, …
    at::Tensor row_index;                // [rows] into kv, when they are not
    at::Tensor local_row, local_column;  // [N] where each token's query stands in the padded batch
    at::Tensor bias;                     // [rows, 1, width · group, keys]: 0 or −∞
  };

  void make_padding(const TokenPlaces& places);
  void make_bias(const std::vector<int64_t>& first_positions);
  at::Tensor attend_padded(int layer, const at::Tensor& q) const;
  at::Tensor attend_kernel(int layer, const at::Tensor& q) const;
  at::Tensor index(const std::vector<int64_t>& values) const;

  KvRows& kv_;
  const ModelShape& shape_;
  at::TensorOptions options_;
  int64_t group_;     // query heads a KV head
  int64_t keys_ = 0;  // longest row
  bool use_kernel_ = false;
  at::Tensor rows_, positions_;
  Padding padding_;
};

}  // namespace espalier::policy
