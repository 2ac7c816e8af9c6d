#include "policy/prefill_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "policy/models.h"

namespace espalier::policy {
namespace {

using ::testing::ElementsAre;

class Plans : public ::testing::Test {
 protected:
  static ContextPtr extend(const ContextPtr& parent, size_t count) {
    return Context::extend(parent, std::vector<Token>(count, 1));
  }
  PrefillPlan plan(const std::vector<ContextPtr>& contexts) {
    std::vector<const Context*> borrowed;
    for (const ContextPtr& context : contexts) borrowed.push_back(context.get());
    return plan_prefill(borrowed, [this](const Context& span) { return covered_[&span]; });
  }
  /// (begin, end, owner) of every segment of a wave.
  static std::vector<std::vector<size_t>> segments(const PrefillPlan& plan, size_t wave) {
    std::vector<std::vector<size_t>> result;
    for (const PrefillSegment& segment : plan.waves.at(wave)) {
      result.push_back({segment.begin, segment.end, segment.owner});
    }
    return result;
  }
  using S = std::vector<size_t>;

  std::map<const Context*, size_t> covered_;
  ContextPtr root_ = Context::root(std::vector<Token>(10, 1));
};

TEST_F(Plans, RootNeedsAllButItsLastToken) {
  const PrefillPlan p = plan({root_});
  ASSERT_EQ(p.waves.size(), 1u);
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 9, 0}));
  EXPECT_THAT(p.computed, ElementsAre(9));
  EXPECT_THAT(p.covered, ElementsAre(0));
}

TEST_F(Plans, SameContextIsComputedOnce) {
  const PrefillPlan p = plan({root_, root_, root_});
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 9, 0}));
  EXPECT_THAT(p.computed, ElementsAre(9, 0, 0));
}

TEST_F(Plans, ActionWithoutItsLastKvGoesOnInOneSegment) {
  const ContextPtr action = extend(root_, 4), observation = extend(action, 5);
  covered_ = {{root_.get(), 10}, {action.get(), 3}};
  const PrefillPlan p = plan({observation});
  ASSERT_EQ(p.waves.size(), 1u);
  EXPECT_THAT(segments(p, 0), ElementsAre(S{13, 18, 0}));
  EXPECT_THAT(p.waves[0][0].spans, ElementsAre(action.get(), observation.get()));
  EXPECT_THAT(p.covered, ElementsAre(13));
}

TEST_F(Plans, SiblingsShareTheSpanAboveThem) {
  const ContextPtr action = extend(root_, 4), a = extend(action, 5), b = extend(action, 2);
  covered_ = {{root_.get(), 10}, {action.get(), 3}};
  const PrefillPlan p = plan({a, b});
  ASSERT_EQ(p.waves.size(), 2u);
  EXPECT_THAT(segments(p, 0), ElementsAre(S{13, 14, 0}));
  EXPECT_THAT(segments(p, 1), ElementsAre(S{14, 18, 0}, S{14, 15, 1}));
  EXPECT_THAT(p.computed, ElementsAre(5, 1));
}

TEST_F(Plans, DeeperRequestNeedsTheWholeSpanOfAShorterOne) {
  const ContextPtr deeper = extend(root_, 1);
  const PrefillPlan p = plan({root_, deeper});
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 10, 0}));
  EXPECT_THAT(p.computed, ElementsAre(10, 0));
}

TEST_F(Plans, NothingToDoWhenCovered) {
  covered_ = {{root_.get(), 9}};
  const PrefillPlan p = plan({root_});
  EXPECT_TRUE(p.waves.empty());
  EXPECT_THAT(p.covered, ElementsAre(9));
  EXPECT_THAT(plan({Context::root({1})}).computed, ElementsAre(0));
}

TEST_F(Plans, KvBelowAGapIsComputedAgain) {
  const ContextPtr action = extend(root_, 4);
  covered_ = {{root_.get(), 0}, {action.get(), 3}};
  const PrefillPlan p = plan({action});
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 13, 0}));
}

TEST_F(Plans, EmptySpansAreSkipped) {
  const ContextPtr end = extend(extend(extend(root_, 0), 3), 0);
  const PrefillPlan p = plan({end});
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 12, 0}));
}

TEST_F(Plans, ThreeLevelsOfBranchesTakeThreeWaves) {
  const ContextPtr a = extend(root_, 3), b = extend(root_, 3);
  const ContextPtr a1 = extend(a, 2), a2 = extend(a, 2);
  const PrefillPlan p = plan({a1, a2, b});
  ASSERT_EQ(p.waves.size(), 3u);
  EXPECT_THAT(segments(p, 0), ElementsAre(S{0, 10, 0}));
  EXPECT_THAT(segments(p, 1), ElementsAre(S{10, 13, 0}, S{10, 12, 2}));
  EXPECT_THAT(segments(p, 2), ElementsAre(S{13, 14, 0}, S{13, 14, 1}));
}

}  // namespace
}  // namespace espalier::policy
