// uniform: branches with a fixed probability at every turn where it may; the control of the other
// rules.
#include <limits>

#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

/// A counter that no token of the action reaches, should the key be the one the action is drawn
/// with.
constexpr uint64_t kForkCounter = std::numeric_limits<uint64_t>::max();

class Uniform final : public ForkRule {
 public:
  explicit Uniform(const ForkRuleOptions& options) : options_(options) {}
  std::string name() const override { return "uniform"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }
  int decide(const ForkContext& context) override {
    if (!may_fork(context, options_)) return 1;
    return common::uniform(context.key, kForkCounter) < options_.probability ? options_.branches
                                                                             : 1;
  }
  std::string save() const override { return ""; }
  void restore(const std::string& state) override { expect_empty_state(name(), state); }

 private:
  ForkRuleOptions options_;
};

}  // namespace

std::unique_ptr<ForkRule> make_uniform_rule(const ForkRuleOptions& options) {
  return std::make_unique<Uniform>(options);
}

}  // namespace espalier::tree
