#include "policy/cpu_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/rng.h"
#include "policy/models.h"

namespace espalier::policy {
namespace {

constexpr int64_t kRows = 3, kCapacity = 70;

struct Case {
  int64_t heads, kv_heads, head_dim;
  std::vector<int64_t> rows, positions;
  std::vector<float> queries, keys, values, out;

  Case(int64_t heads, int64_t kv_heads, int64_t head_dim)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim) {
    for (int64_t position : {0, 1, 6, 7, 8, 9, 15, 40, 69}) {
      rows.push_back(static_cast<int64_t>(rows.size()) % kRows);
      positions.push_back(position);
    }
    common::Rng rng(common::RngKey{static_cast<uint64_t>(head_dim)});
    auto fill = [&](std::vector<float>& data, size_t size) {
      for (size_t i = 0; i < size; ++i) data.push_back(static_cast<float>(2 * rng.normal()));
    };
    fill(queries, rows.size() * static_cast<size_t>(heads * head_dim));
    fill(keys, static_cast<size_t>(kRows * kv_heads * kCapacity * head_dim));
    fill(values, keys.size());
    out.resize(queries.size());
  }

  RowAttentionWork work() {
    RowAttentionWork work;
    work.heads = heads;
    work.kv_heads = kv_heads;
    work.head_dim = head_dim;
    work.queries = queries.data();
    work.out = out.data();
    work.rows = rows.data();
    work.positions = positions.data();
    work.keys = keys.data();
    work.values = values.data();
    work.row_stride = kv_heads * kCapacity * head_dim;
    work.head_stride = kCapacity * head_dim;
    return work;
  }

  std::vector<double> expected(size_t token, int64_t head) const {
    const float* q = queries.data() + (static_cast<int64_t>(token) * heads + head) * head_dim;
    const int64_t base =
        (rows[token] * kv_heads + head / (heads / kv_heads)) * kCapacity * head_dim;
    std::vector<double> scores;
    for (int64_t t = 0; t <= positions[token]; ++t) {
      double product = 0;
      for (int64_t i = 0; i < head_dim; ++i)
        product += double{q[i]} * keys[static_cast<size_t>(base + t * head_dim + i)];
      scores.push_back(product / std::sqrt(static_cast<double>(head_dim)));
    }
    const std::vector<double> log_weights = testing::log_softmax(scores);
    std::vector<double> mixed(static_cast<size_t>(head_dim));
    for (int64_t t = 0; t <= positions[token]; ++t) {
      for (int64_t i = 0; i < head_dim; ++i) {
        mixed[static_cast<size_t>(i)] += std::exp(log_weights[static_cast<size_t>(t)]) *
                                         values[static_cast<size_t>(base + t * head_dim + i)];
      }
    }
    return mixed;
  }
};

TEST(CpuAttention, EqualsTheFormulaForEveryHeadSizeAndLength) {
  for (int64_t head_dim : {16, 32, 64, 128}) {
    for (auto [heads, kv_heads] : {std::pair<int64_t, int64_t>{4, 4}, {4, 2}, {3, 1}}) {
      ASSERT_TRUE(has_row_attention(head_dim));
      Case c(heads, kv_heads, head_dim);
      attend_rows(c.work(), 0, static_cast<int64_t>(c.rows.size()));
      for (size_t token = 0; token < c.rows.size(); ++token) {
        for (int64_t head = 0; head < heads; ++head) {
          const auto expected = c.expected(token, head);
          for (int64_t i = 0; i < head_dim; ++i) {
            const size_t at =
                static_cast<size_t>((static_cast<int64_t>(token) * heads + head) * head_dim + i);
            ASSERT_NEAR(c.out[at], expected[static_cast<size_t>(i)], 1e-5)
                << "head_dim " << head_dim << " token " << token;
          }
        }
      }
    }
  }
  EXPECT_FALSE(has_row_attention(24));
}

TEST(CpuAttention, PartitionDoesNotChangeBits) {
  Case whole(4, 2, 16), parts(4, 2, 16);
  attend_rows(whole.work(), 0, 9);
  for (int64_t i = 0; i < 9; ++i) attend_rows(parts.work(), i, i + 1);
  EXPECT_EQ(whole.out, parts.out);
}

TEST(CpuAttention, FarApartScoresDoNotOverflow) {
  Case c(4, 4, 16);
  for (float& q : c.queries) q *= 1e4f;
  attend_rows(c.work(), 0, 9);
  for (float value : c.out) ASSERT_TRUE(std::isfinite(value));
}

}  // namespace
}  // namespace espalier::policy
