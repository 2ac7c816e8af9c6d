// voi: value of information a token.
//
//   score = H · p̂(1 − p̂) / T(turn); fork when it exceeds the running quantile q of earlier scores
//
// H: entropy of the first token at the decision; p̂: the task's success rate in earlier steps,
// shrunk towards its family's (running.h); T: mean tokens an episode still generated from that turn
// on, in earlier steps. A branch is worth what it may change, times how far the outcome is open,
// over what it costs. Before the first step is over p̂ and T are not known, and nothing forks. All
// of it is known before anything is sampled: a stopping time with exchangeable siblings.
#include <cmath>

#include "tree/fork_rules/factories.h"
#include "tree/fork_rules/running.h"

namespace espalier::tree {
namespace {

class Voi final : public ForkRule {
 public:
  explicit Voi(const ForkRuleOptions& options) : options_(options) {}
  std::string name() const override { return "voi"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }

  int decide(const ForkContext& context) override {
    const auto tokens = remaining_.from(context.turn);
    if (context.turn == 0 || !std::isfinite(context.first_entropy) || !tokens) return 1;
    const double p = success_.rate(context.task, context.family);
    const double score = context.first_entropy * p * (1 - p) / *tokens;
    const bool fork = may_fork(context, options_) && scores_.exceeds(score, options_.quantile);
    scores_.observe(score);
    return fork ? children_for(context, options_, success_) : 1;
  }

  void observe(std::span<const Tree> trees) override {
    success_.observe(trees);
    remaining_.observe(trees);
  }

  std::string save() const override {
    return nlohmann::json{{"rule", name()},
                          {"window", scores_.save()},
                          {"success", success_.save()},
                          {"remaining", remaining_.save()}}
        .dump();
  }

  void restore(const std::string& state) override {
    read_state(name(), state, [this](const nlohmann::json& saved) {
      Voi fresh(options_);
      fresh.scores_.restore(saved.at("window"));
      fresh.success_.restore(saved.at("success"));
      fresh.remaining_.restore(saved.at("remaining"));
      *this = std::move(fresh);
    });
  }

 private:
  ForkRuleOptions options_;
  RunningQuantile scores_;
  SuccessRates success_;
  RemainingTokens remaining_;
};

}  // namespace

std::unique_ptr<ForkRule> make_voi_rule(const ForkRuleOptions& options) {
  return std::make_unique<Voi>(options);
}

}  // namespace espalier::tree
