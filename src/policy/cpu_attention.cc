#include "policy/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace espalier::policy {
namespace {

// Compiled once for each instruction set below, hence inlined into the function that names the set.
#define ESPALIER_INLINE [[gnu::always_inline]] inline

typedef float Lanes __attribute__((vector_size(32)));
typedef int32_t IntLanes __attribute__((vector_size(32)));
constexpr int kLanes = 8;

ESPALIER_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof to); }
ESPALIER_INLINE void store(const Lanes& from, float* to) { std::memcpy(to, &from, sizeof from); }

/// Sums of the lanes of eight vectors, as one vector.
ESPALIER_INLINE void sum_lanes(const Lanes (&p)[8], Lanes& sums) {
  constexpr IntLanes kEven = {0, 8, 2, 10, 4, 12, 6, 14}, kOdd = {1, 9, 3, 11, 5, 13, 7, 15};
  constexpr IntLanes kFirst = {0, 1, 8, 9, 4, 5, 12, 13}, kSecond = {2, 3, 10, 11, 6, 7, 14, 15};
  constexpr IntLanes kLow = {0, 1, 2, 3, 8, 9, 10, 11}, kHigh = {4, 5, 6, 7, 12, 13, 14, 15};
  Lanes pairs[4], quads[2];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = __builtin_shuffle(p[2 * i], p[2 * i + 1], kEven) +
               __builtin_shuffle(p[2 * i], p[2 * i + 1], kOdd);
  }
  for (int i = 0; i < 2; ++i) {
    quads[i] = __builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], kFirst) +
               __builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], kSecond);
  }
  sums = __builtin_shuffle(quads[0], quads[1], kLow) + __builtin_shuffle(quads[0], quads[1], kHigh);
}

/// e^x for x ≤ 0 within 2 ulp: 2^n · e^r, |r| ≤ ln 2 / 2, the Taylor polynomial of e^r.
ESPALIER_INLINE void exp_nonpositive(Lanes& x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  x = x > -87.0f ? x : Lanes{} - 87.0f;
  const Lanes n = (x * kLog2E + kRound) - kRound;
  const Lanes r = (x - n * kLn2High) - n * kLn2Low;
  Lanes p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntLanes exponent = (__builtin_convertvector(n, IntLanes) + 127) << 23;
  x = p * (Lanes)exponent;
}

/// Scaled products of the query with `count` keys; the rest of the last eight is set to a very low
/// score. Returns the highest score.
template <int kHeadDim>
ESPALIER_INLINE float score(const float* query, const float* keys, int64_t count, float* scores) {
  constexpr int kParts = kHeadDim / kLanes;
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  Lanes q[kParts], top = Lanes{} - 1e30f;
  for (int i = 0; i < kParts; ++i) {
    load(query + i * kLanes, q[i]);
    q[i] *= scale;
  }
  for (int64_t t = 0; t < count; t += kLanes) {
    Lanes products[kLanes] = {}, sums;
    for (int j = 0; j < kLanes; ++j) {
      const float* key = keys + std::min(t + j, count - 1) * kHeadDim;
      for (int i = 0; i < kParts; ++i) {
        Lanes k;
        load(key + i * kLanes, k);
        products[j] += q[i] * k;
      }
    }
    sum_lanes(products, sums);
    for (int64_t j = count - t; j < kLanes; ++j) sums[j] = -1e30f;
    store(sums, scores + t);
    top = sums > top ? sums : top;
  }
  float highest = top[0];
  for (int j = 1; j < kLanes; ++j) highest = std::max(highest, top[j]);
  return highest;
}

/// Turns scores into weights e^(score − top). Returns their sum.
ESPALIER_INLINE float weigh(float* scores, int64_t count, float top) {
  Lanes totals = {};
  for (int64_t t = 0; t < count; t += kLanes) {
    Lanes weights;
    load(scores + t, weights);
    weights -= top;
    exp_nonpositive(weights);
    store(weights, scores + t);
    totals += weights;
  }
  return ((totals[0] + totals[4]) + (totals[1] + totals[5])) +
         ((totals[2] + totals[6]) + (totals[3] + totals[7]));
}

template <int kHeadDim>
ESPALIER_INLINE void mix(const float* weights, const float* values, int64_t count, float total,
                         float* out) {
  constexpr int kParts = kHeadDim / kLanes;
  constexpr int kChains = kParts < 8 ? 8 / kParts : 1;  // independent sums hide the adder's latency
  Lanes sums[kChains][kParts] = {};
  for (int64_t t = 0; t < count; t += kChains) {
    for (int c = 0; c < kChains && t + c < count; ++c) {
      for (int i = 0; i < kParts; ++i) {
        Lanes v;
        load(values + (t + c) * kHeadDim + i * kLanes, v);
        sums[c][i] += weights[t + c] * v;
      }
    }
  }
  for (int i = 0; i < kParts; ++i) {
    for (int c = 1; c < kChains; ++c) sums[0][i] += sums[c][i];
    sums[0][i] /= total;
    store(sums[0][i], out + i * kLanes);
  }
}

template <int kHeadDim>
ESPALIER_INLINE void attend_one(const float* query, const float* keys, const float* values,
                                int64_t count, float* scores, float* out) {
  const float top = score<kHeadDim>(query, keys, count, scores);
  const float total = weigh(scores, count, top);
  mix<kHeadDim>(scores, values, count, total, out);
}

template <int kHeadDim>
ESPALIER_INLINE void attend_range(const RowAttentionWork& work, int64_t begin, int64_t end) {
  const int64_t group = work.heads / work.kv_heads;
  int64_t longest = 0;
  for (int64_t i = begin; i < end; ++i) longest = std::max(longest, work.positions[i] + 1);
  std::vector<float> scores(static_cast<size_t>(longest + kLanes));
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t head = 0; head < work.heads; ++head) {
      const int64_t base = work.rows[i] * work.row_stride + head / group * work.head_stride;
      const int64_t at = (i * work.heads + head) * kHeadDim;
      attend_one<kHeadDim>(work.queries + at, work.keys + base, work.values + base,
                           work.positions[i] + 1, scores.data(), work.out + at);
    }
  }
}

ESPALIER_INLINE void attend_any(const RowAttentionWork& work, int64_t begin, int64_t end) {
  switch (work.head_dim) {
    case 16:
      return attend_range<16>(work, begin, end);
    case 32:
      return attend_range<32>(work, begin, end);
    case 64:
      return attend_range<64>(work, begin, end);
    case 128:
      return attend_range<128>(work, begin, end);
  }
}

#ifdef __x86_64__
[[gnu::target("avx2,fma")]] void attend_avx2(const RowAttentionWork& work, int64_t begin,
                                             int64_t end) {
  attend_any(work, begin, end);
}
#endif

void attend_baseline(const RowAttentionWork& work, int64_t begin, int64_t end) {
  attend_any(work, begin, end);
}

}  // namespace

bool has_row_attention(int64_t head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 128;
}

void attend_rows(const RowAttentionWork& work, int64_t begin, int64_t end) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return attend_avx2(work, begin, end);
#endif
  attend_baseline(work, begin, end);
}

}  // namespace espalier::policy
