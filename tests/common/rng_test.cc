#include "common/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace espalier::common {
namespace {

using Words = std::array<uint32_t, 4>;

// Random123's known answers for philox4x32, 10 rounds (tests/kat_vectors).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, PutsKeyAndCounterLowWordFirst) {
  EXPECT_EQ(philox(RngKey{0x1122334455667788}, 0x99aabbccddeeff00),
            philox4x32({0xddeeff00, 0x99aabbcc, 0, 0}, {0x55667788, 0x11223344}));
}

TEST(DeriveKey, DependsOnEveryPartAndOnWhereTheyEnd) {
  std::set<uint64_t> seen;
  for (uint64_t seed : {0, 1}) {
    for (const char* task : {"", "a", "ab"}) {
      for (const char* path : {"", "b", "bc"}) seen.insert(derive_key(seed, task, path).value);
    }
  }
  EXPECT_EQ(seen.size(), 2u * 3 * 3);
  EXPECT_NE(derive_key(1, "ab", "c"), derive_key(1, "a", "bc"));
  EXPECT_EQ(derive_key(1, "ab", "c"), derive_key(1, "ab", "c"));
}

TEST(DeriveKey, IsStableAcrossVersions) {
  // First eight bytes, little-endian, of SHA-256 over seed, then each part after its length, all in
  // 8 bytes.
  EXPECT_EQ(derive_key(7, "nursery:find/17/d2", "r0.t1").value, 0x8d627e4f30721d5f);
}

TEST(Uniform, LiesInTheUnitIntervalAndIsFlat) {
  constexpr int kDraws = 20000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = uniform(RngKey{42}, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.01);
}

TEST(Rng, ReadsItsStreamInOrder) {
  Rng rng(RngKey{5});
  EXPECT_EQ(rng.uniform(), uniform(RngKey{5}, 0));
  EXPECT_EQ(rng.uniform(), uniform(RngKey{5}, 1));
}

TEST(Rng, RangeIsInclusiveAndEven) {
  Rng rng(RngKey{1});
  std::map<int64_t, int> counts;
  for (int i = 0; i < 7000; ++i) ++counts[rng.range(-3, 3)];
  ASSERT_EQ(counts.size(), 7u);
  EXPECT_EQ(counts.begin()->first, -3);
  EXPECT_EQ(counts.rbegin()->first, 3);
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, 1000, 150) << value;
}

TEST(Rng, RangeHandlesOneValueAndAllValues) {
  Rng rng(RngKey{1});
  EXPECT_EQ(rng.range(9, 9), 9);
  Rng all(RngKey{2}), bits(RngKey{2});
  EXPECT_EQ(all.range(INT64_MIN, INT64_MAX), static_cast<int64_t>(bits.next()));
  EXPECT_DEATH(rng.range(2, 1), "empty range");
}

TEST(Rng, NormalHasUnitVariance) {
  constexpr int kDraws = 20000;
  Rng rng(RngKey{3});
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 0.03);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.05);
}

}  // namespace
}  // namespace espalier::common
