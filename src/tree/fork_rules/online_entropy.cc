// online_entropy: branches where the entropy of the next action's first-token distribution exceeds
// a running quantile of what was seen before.
//
//   H' = H·(1 − consecutive_penalty)^c, c: branchings in a row right before
//   threshold = sorted(last 4000 H)[⌊q·(n − 1)⌋]; fork when H' > threshold and n ≥ 50; then H joins
//   K = branches, or branches_hard for a task whose success rate so far is below 10 %
//
// Entropies at turn 0 are not candidates and stay out. All of it is known before anything is
// sampled: a stopping time with exchangeable siblings.
#include <cmath>

#include "tree/fork_rules/factories.h"
#include "tree/fork_rules/running.h"

namespace espalier::tree {
namespace {

class OnlineEntropy final : public ForkRule {
 public:
  explicit OnlineEntropy(const ForkRuleOptions& options) : options_(options) {}
  std::string name() const override { return "online_entropy"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }

  int decide(const ForkContext& context) override {
    if (context.turn == 0 || !std::isfinite(context.first_entropy)) return 1;
    const double penalised = context.first_entropy *
                             std::pow(1 - options_.consecutive_penalty, context.consecutive_forks);
    const bool fork =
        may_fork(context, options_) && entropies_.exceeds(penalised, options_.quantile);
    entropies_.observe(context.first_entropy);
    return fork ? children_for(context, options_, success_) : 1;
  }

  void observe(std::span<const Tree> trees) override { success_.observe(trees); }

  std::string save() const override {
    return nlohmann::json{
        {"rule", name()}, {"window", entropies_.save()}, {"success", success_.save()}}
        .dump();
  }

  void restore(const std::string& state) override {
    read_state(name(), state, [this](const nlohmann::json& saved) {
      RunningQuantile entropies;
      SuccessRates success;
      entropies.restore(saved.at("window"));
      success.restore(saved.at("success"));
      entropies_ = std::move(entropies);
      success_ = std::move(success);
    });
  }

 private:
  ForkRuleOptions options_;
  RunningQuantile entropies_;
  SuccessRates success_;
};

}  // namespace

std::unique_ptr<ForkRule> make_online_entropy_rule(const ForkRuleOptions& options) {
  return std::make_unique<OnlineEntropy>(options);
}

}  // namespace espalier::tree
