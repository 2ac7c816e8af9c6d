#include "learner/walk_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::TreeMaker;

/// Whether token q sees token k, by the segments of the whole tree.
bool sees(const std::vector<Segment>& segments, int64_t q, int64_t k) {
  for (const Segment& s : segments) {
    if (s.begin <= k && k < s.end) return k <= q && q < s.subtree_end;
  }
  return false;
}

/// The same by the plan: within a unit by its segments, else by the units above.
bool sees(const std::vector<WalkUnit>& units, int64_t q, int64_t k) {
  auto unit_of = [&](int64_t token) {
    return static_cast<int>(std::find_if(units.begin(), units.end(),
                                         [&](const WalkUnit& unit) {
                                           return unit.begin <= token && token < unit.end;
                                         }) -
                            units.begin());
  };
  const int of_q = unit_of(q), of_k = unit_of(k);
  if (of_q == of_k) {
    const WalkUnit& unit = units[static_cast<size_t>(of_q)];
    return sees(unit.segments, q - unit.begin, k - unit.begin);
  }
  for (int above = units[static_cast<size_t>(of_q)].parent; above >= 0;
       above = units[static_cast<size_t>(above)].parent) {
    if (above == of_k) return true;
  }
  return false;
}

TEST(WalkPlan, SeesWhatTheTreeSeesWithinTheBudget) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    test::RandomTreeOptions options;
    options.depth = static_cast<int>(1 + seed % 6);
    options.max_branching = static_cast<int>(1 + seed % 4);
    const auto trees = TreeMaker(seed, options).make(seed % 3 == 0 ? 2 : 1);
    const Packed packed = pack(pointers(trees), {.max_tokens = 100000}).at(0);
    const int64_t n = static_cast<int64_t>(packed.tokens.size());
    for (int64_t budget : {1, 20, 45, 100000}) {
      const std::vector<WalkUnit> units = plan_walk(packed.segments, budget);
      int64_t covered = 0;
      for (size_t u = 0; u < units.size(); ++u) {
        EXPECT_EQ(units[u].begin, covered) << "units follow each other";
        covered = units[u].end;
        EXPECT_LT(units[u].parent, static_cast<int>(u));
        int64_t live = units[u].end - units[u].begin;
        for (int above = units[u].parent; above >= 0;
             above = units[static_cast<size_t>(above)].parent)
          live += units[static_cast<size_t>(above)].end - units[static_cast<size_t>(above)].begin;
        if (units[u].segments.size() > 1) {
          EXPECT_LE(live, budget) << "seed " << seed;
        }
      }
      EXPECT_EQ(covered, n);
      if (budget == 100000) {
        EXPECT_EQ(units.size(), 1u);
      }
      for (int64_t q = 0; q < n; ++q) {
        for (int64_t k = 0; k < n; ++k)
          ASSERT_EQ(sees(units, q, k), sees(packed.segments, q, k)) << q << " sees " << k;
      }
    }
  }
}

TEST(WalkPlan, NeighboursThatFitAreOneUnit) {
  // A trunk of 10 tokens, four branches of 5.
  std::vector<Segment> segments = {{0, 10, 30, 0}};
  for (int64_t i = 0; i < 4; ++i) segments.push_back({10 + 5 * i, 15 + 5 * i, 15 + 5 * i, 1});
  const std::vector<WalkUnit> units = plan_walk(segments, 20);
  ASSERT_EQ(units.size(), 3u);
  EXPECT_EQ(units[1].parent, 0);
  EXPECT_EQ(units[1].segments.size(), 2u);
  EXPECT_EQ(units[2].begin, 20);
  EXPECT_EQ(units[2].segments[1].begin, 5);
  EXPECT_EQ(units[2].segments[1].level, 0);
}

}  // namespace
}  // namespace espalier::learner
