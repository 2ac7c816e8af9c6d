#include "policy/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/error.h"
#include "policy/models.h"

namespace espalier::policy {
namespace {

struct Distribution {
  std::vector<float> log_probs, probs;
};

Distribution distribution(const std::vector<double>& logits) {
  Distribution result;
  for (double value : testing::log_softmax(logits)) {
    result.log_probs.push_back(static_cast<float>(value));
    result.probs.push_back(static_cast<float>(std::exp(value)));
  }
  return result;
}

/// Pearson's statistic of `draws` draws against the expected probabilities; tokens of probability 0
/// must not occur.
double chi_square(const Distribution& given, const SamplingOptions& options,
                  const std::vector<double>& expected, int draws) {
  std::vector<int> counts(expected.size());
  for (int i = 0; i < draws; ++i) {
    const double u = common::uniform(common::RngKey{77}, static_cast<uint64_t>(i));
    ++counts[static_cast<size_t>(sample(given.log_probs, given.probs, options, u))];
  }
  double statistic = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double mean = expected[i] * draws;
    if (mean == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
    } else {
      statistic += (counts[i] - mean) * (counts[i] - mean) / mean;
    }
  }
  return statistic;
}

const std::vector<double> kLogits = {0.0, 1.0, 2.0, 1.0, -1.0, 0.5};
// 5 degrees of freedom: exceeded with probability 1e-4.
constexpr double kCritical = 25.7;

std::vector<double> softmax_at(double temperature, const std::vector<bool>& kept) {
  std::vector<double> p;
  double total = 0;
  for (size_t i = 0; i < kLogits.size(); ++i) {
    p.push_back(kept[i] ? std::exp(kLogits[i] / temperature) : 0);
    total += p.back();
  }
  for (double& value : p) value /= total;
  return p;
}

const std::vector<bool> kAll(6, true);

TEST(Sampler, FollowsTheDistribution) {
  const Distribution given = distribution(kLogits);
  EXPECT_LT(chi_square(given, {}, softmax_at(1.0, kAll), 20000), kCritical);
  SamplingOptions cool;
  cool.temperature = 0.5;
  EXPECT_LT(chi_square(given, cool, softmax_at(0.5, kAll), 20000), kCritical);
  EXPECT_GT(chi_square(given, cool, softmax_at(1.0, kAll), 20000),
            kCritical);  // the test can tell them apart
}

TEST(Sampler, TopKKeepsTheLikeliestLowestIdsFirst) {
  const Distribution given = distribution(kLogits);
  SamplingOptions options;
  options.top_k = 2;
  EXPECT_LT(
      chi_square(given, options, softmax_at(1.0, {false, true, true, false, false, false}), 20000),
      kCritical);
  options.top_k = 100;
  EXPECT_LT(chi_square(given, options, softmax_at(1.0, kAll), 20000), kCritical);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  const Distribution given = distribution(kLogits);  // sorted: 0.465 0.171 0.171 0.104 0.063 0.023
  SamplingOptions options;
  options.top_p = 0.7;
  EXPECT_LT(
      chi_square(given, options, softmax_at(1.0, {false, true, true, true, false, false}), 20000),
      kCritical);
  options.top_p = 0.1;
  EXPECT_LT(
      chi_square(given, options, softmax_at(1.0, {false, false, true, false, false, false}), 1000),
      kCritical);
}

TEST(Sampler, TopPCountsWithinTopK) {
  const Distribution given = distribution(kLogits);  // within the first three: 0.576 0.212 0.212
  SamplingOptions options;
  options.top_k = 3;
  options.top_p = 0.6;
  EXPECT_LT(
      chi_square(given, options, softmax_at(1.0, {false, true, true, false, false, false}), 20000),
      kCritical);
}

TEST(Sampler, GreedyTakesTheLowestIdOnTies) {
  const Distribution given = distribution({0.0, 3.0, 1.0, 3.0});
  SamplingOptions greedy;
  greedy.temperature = 0;
  EXPECT_EQ(sample(given.log_probs, given.probs, greedy, 0.99), 1);
}

TEST(Sampler, EndsOfTheUnitIntervalGiveTokensThatExist) {
  const Distribution given = distribution({-1e9, 0.0, 1.0, -1e9});
  EXPECT_EQ(sample(given.log_probs, given.probs, {}, 0.0), 1);
  EXPECT_EQ(sample(given.log_probs, given.probs, {}, std::nextafter(1.0, 0.0)), 2);
}

TEST(Sampler, RefusesBadOptionsAndBrokenDistributions) {
  auto refused = [](auto&& change) {
    SamplingOptions options;
    change(options);
    EXPECT_THROW(check_sampling(options), common::PolicyError);
  };
  refused([](SamplingOptions& o) { o.temperature = -1; });
  refused([](SamplingOptions& o) { o.temperature = std::nan(""); });
  refused([](SamplingOptions& o) { o.temperature = std::numeric_limits<double>::infinity(); });
  refused([](SamplingOptions& o) { o.top_p = 0; });
  refused([](SamplingOptions& o) { o.top_p = 1.5; });
  refused([](SamplingOptions& o) { o.top_k = 0; });
  refused([](SamplingOptions& o) { o.max_new_tokens = 0; });
  check_sampling({});
  const std::vector<float> broken(3, std::nanf(""));
  EXPECT_THROW(sample(broken, broken, {}, 0.5), common::PolicyError);
}

}  // namespace
}  // namespace espalier::policy
