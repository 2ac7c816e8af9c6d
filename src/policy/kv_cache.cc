#include "policy/kv_cache.h"

#include <ATen/ops/index_put.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace espalier::policy {
namespace {

constexpr int64_t kRowStep = 32, kTokenStep = 64;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

void KvRows::reserve(int64_t rows, int64_t tokens) {
  const int64_t old_rows = data_.defined() ? data_.size(2) : 0;
  const int64_t old_tokens = data_.defined() ? data_.size(4) : 0;
  if (rows <= old_rows && tokens <= old_tokens) return;
  rows = std::max(old_rows, round_up(rows, kRowStep));
  tokens = std::max(old_tokens, round_up(tokens, kTokenStep));
  at::Tensor grown = at::zeros(
      {shape_.num_hidden_layers, 2, rows, shape_.num_key_value_heads, tokens, shape_.head_dim},
      options_);
  if (old_rows > 0) grown.narrow(2, 0, old_rows).narrow(4, 0, old_tokens).copy_(data_);
  data_ = grown;
}

void KvRows::write(int layer, const at::Tensor& rows, const at::Tensor& positions,
                   const at::Tensor& k, const at::Tensor& v) {
  for (int which : {0, 1}) {
    at::Tensor by_position = data_[layer][which].permute({0, 2, 1, 3});
    by_position.index_put_({rows, positions}, which == 0 ? k : v);
  }
}

at::Tensor KvRows::span(int64_t row, int64_t begin, int64_t end) const {
  return data_.select(2, row).narrow(3, begin, end - begin);
}

void KvRows::copy_row(int64_t from, int64_t to, int64_t tokens) {
  span(to, 0, tokens).copy_(span(from, 0, tokens));
}

}  // namespace espalier::policy
