#include "tree/volatile_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace espalier::tree {
namespace {

void expect_only_volatile(const std::string& a, const std::string& b, const std::string& kind) {
  const Masked first = mask_volatile(a), second = mask_volatile(b);
  EXPECT_EQ(first.text, second.text);
  EXPECT_THAT(first.kinds, ::testing::Contains(kind)) << first.text;
}

TEST(VolatileText, TimesIdsAndRandomNamesAreEqual) {
  expect_only_volatile("Wed Nov 25 02:47:31 UTC 2026", "Thu Dec  3 11:02:00 UTC 2026", "date");
  expect_only_volatile("-rw-r--r-- 1 u u 3 Nov 25 02:47 a", "-rw-r--r-- 1 u u 3 Dec  1 12:00 a",
                       "time of day");
  expect_only_volatile("/tmp/tmp.Ab3dE9xYzQ", "/tmp/tmp.000000zzzz", "temporary name");
  expect_only_volatile("real\t0m0.003s", "real\t0m12.4s", "duration");
  expect_only_volatile("[1] 4711", "[1] 12", "process id");
  expect_only_volatile("pid 4711 died", "pid 9 died", "process id");
  expect_only_volatile("1764038851", "1764038999.25", "seconds since 1970");
  expect_only_volatile("at 0x7ffe12345678", "at 0x55d0deadbeef", "address");
}

TEST(VolatileText, WhatSaysSomethingIsKept) {
  for (const auto& [a, b] : {std::pair("3 files", "4 files"), std::pair("found", "not found"),
                             std::pair("port 8080", "port 8081"), std::pair("May I?", "Can I?")})
    EXPECT_NE(mask_volatile(a).text, mask_volatile(b).text) << a;
  EXPECT_TRUE(mask_volatile("total 4\nnote\n").kinds.empty());
}

}  // namespace
}  // namespace espalier::tree
