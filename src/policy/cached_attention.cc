#include "policy/cached_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "policy/cpu_attention.h"

namespace espalier::policy {

CachedAttention::CachedAttention(KvRows& kv, const ModelShape& shape, const TokenPlaces& places,
                                 at::TensorOptions options)
    : kv_(kv),
      shape_(shape),
      options_(options),
      group_(shape.num_attention_heads / shape.num_key_value_heads),
      keys_(*std::max_element(places.positions.begin(), places.positions.end()) + 1),
      use_kernel_(options.device().is_cpu() && options.dtype() == at::kFloat &&
                  has_row_attention(shape.head_dim)),
      rows_(index(places.rows)),
      positions_(index(places.positions)) {
  if (!use_kernel_) make_padding(places);
}

at::Tensor CachedAttention::operator()(int layer, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v) {
  kv_.write(layer, rows_, positions_, k, v);
  return use_kernel_ ? attend_kernel(layer, q) : attend_padded(layer, q);
}

at::Tensor CachedAttention::index(const std::vector<int64_t>& values) const {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(options_.device());
}

at::Tensor CachedAttention::attend_kernel(int layer, const at::Tensor& q) const {
  const at::Tensor queries = q.contiguous();
  at::Tensor out = at::empty_like(queries);
  const at::Tensor keys = kv_.keys(layer), values = kv_.values(layer);
  RowAttentionWork work;
  work.heads = shape_.num_attention_heads;
  work.kv_heads = shape_.num_key_value_heads;
  work.head_dim = shape_.head_dim;
  work.queries = queries.const_data_ptr<float>();
  work.out = out.mutable_data_ptr<float>();
  work.rows = rows_.const_data_ptr<int64_t>();
  work.positions = positions_.const_data_ptr<int64_t>();
  work.keys = keys.const_data_ptr<float>();
  work.values = values.const_data_ptr<float>();
  work.row_stride = keys.stride(0);
  work.head_stride = keys.stride(1);
  constexpr int64_t kTokensPerTask = 8;
  at::parallel_for(0, q.size(0), kTokensPerTask,
                   [&](int64_t begin, int64_t end) { attend_rows(work, begin, end); });
  return out;
}

void CachedAttention::make_padding(const TokenPlaces& places) {
  std::vector<int64_t> row_index, local_row, local_column, first_positions;
  for (size_t i = 0; i < places.rows.size(); ++i) {
    if (row_index.empty() || places.rows[i] != row_index.back()) {
      padding_.contiguous =
          padding_.contiguous && (row_index.empty() || places.rows[i] == row_index.back() + 1);
      row_index.push_back(places.rows[i]);
      first_positions.push_back(places.positions[i]);
    }
    local_row.push_back(static_cast<int64_t>(row_index.size()) - 1);
    local_column.push_back(places.positions[i] - first_positions.back());
    padding_.width = std::max(padding_.width, local_column.back() + 1);
  }
  padding_.rows = static_cast<int64_t>(row_index.size());
  padding_.first_row = row_index.front();
  padding_.row_index = index(row_index);
  padding_.local_row = index(local_row);
  padding_.local_column = index(local_column);
  make_bias(first_positions);
}

void CachedAttention::make_bias(const std::vector<int64_t>& first_positions) {
  const int64_t rows = padding_.rows, width = padding_.width;
  const at::Tensor columns = at::arange(width, positions_.options());
  const at::Tensor queries = (index(first_positions).unsqueeze(1) + columns).unsqueeze(2);
  const at::Tensor hidden =
      at::arange(keys_, positions_.options()) > queries;  // [rows, width, keys]
  const at::Tensor bias = at::zeros(hidden.sizes(), options_)
                              .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  padding_.bias = bias.unsqueeze(2)
                      .expand({rows, width, group_, keys_})
                      .reshape({rows, 1, width * group_, keys_});
}

at::Tensor CachedAttention::attend_padded(int layer, const at::Tensor& q) const {
  const int64_t rows = padding_.rows, width = padding_.width;
  const int64_t kv_heads = shape_.num_key_value_heads, head_dim = shape_.head_dim;
  at::Tensor padded = at::zeros({rows, width, kv_heads, group_, head_dim}, q.options());
  padded.index_put_({padding_.local_row, padding_.local_column},
                    q.view({q.size(0), kv_heads, group_, head_dim}));
  // Query heads of a group share keys: they stand side by side on the query axis.
  const at::Tensor queries =
      padded.permute({0, 2, 1, 3, 4}).reshape({rows, kv_heads, width * group_, head_dim});
  auto of_rows = [&](const at::Tensor& all) {
    const at::Tensor seen = all.narrow(2, 0, keys_);
    return padding_.contiguous ? seen.narrow(0, padding_.first_row, rows)
                               : seen.index_select(0, padding_.row_index);
  };
  const at::Tensor out = at::scaled_dot_product_attention(
      queries, of_rows(kv_.keys(layer)), of_rows(kv_.values(layer)), padding_.bias);
  return out.view({rows, kv_heads, width, group_, head_dim})
      .permute({0, 2, 1, 3, 4})
      .index({padding_.local_row, padding_.local_column})
      .reshape(q.sizes());
}

}  // namespace espalier::policy
