// none: linear rollouts.
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

class None final : public ForkRule {
 public:
  std::string name() const override { return "none"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }
  int decide(const ForkContext&) override { return 1; }
  std::string save() const override { return ""; }
  void restore(const std::string& state) override { expect_empty_state(name(), state); }
};

}  // namespace

std::unique_ptr<ForkRule> make_none_rule(const ForkRuleOptions&) {
  return std::make_unique<None>();
}

}  // namespace espalier::tree
