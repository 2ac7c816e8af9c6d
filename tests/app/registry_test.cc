// The names the configuration accepts are the names the registries know.
#include <gtest/gtest.h>

#include "common/config.h"
#include "common/error.h"
#include "envs/nursery/nursery.h"
#include "learner/loss.h"
#include "tree/advantage.h"
#include "tree/fork_rule.h"
#include "tree/ledger.h"

namespace espalier {
namespace {

common::Config with(const std::string& override_text) {
  // meta_agent is refused without a server to ask.
  return common::parse_config("{}", "test",
                              {"algorithm.tree.selector.url=http://127.0.0.1:1/v1", override_text});
}

/// The message that refuses a value no key has lists the values allowed.
std::string allowed(const std::string& key) {
  try {
    with(key + "=no-such-name");
  } catch (const common::ConfigError& error) {
    return error.what();
  }
  return "";
}

void expect_same_names(const std::string& key, const std::vector<std::string>& names) {
  const std::string message = allowed(key);
  for (const std::string& name : names) {
    EXPECT_NO_THROW(with(key + "=" + name)) << key;
    EXPECT_NE(message.find(name), std::string::npos) << message;
  }
}

TEST(Registries, MatchTheConfiguration) {
  expect_same_names("algorithm.tree.fork_rule", tree::fork_rule_names());
  expect_same_names("algorithm.adv_estimator", tree::estimator_names());
  expect_same_names("learner.loss", learner::loss_names());
  for (const char* key : {"data.depth_max", "sft.depth_max", "eval.depth_max"}) {
    const std::string range = std::to_string(envs::nursery::kMinDepth) + " to " +
                              std::to_string(envs::nursery::kMaxDepth);
    EXPECT_NE(allowed(key).find(range), std::string::npos) << allowed(key);
  }
  std::vector<std::string> units;
  for (const auto& [unit, value] : tree::Spend().units()) units.push_back(unit);
  expect_same_names("budget.unit", units);
}

}  // namespace
}  // namespace espalier
