// sampled_entropy: branches where the first tokens sampled were uncertain (as in ARPO, Dong et al.
// 2025, and TreeRL).
//
//   H = mean entropy over the action's first 20 tokens; fork when it exceeds the running quantile q
//   of earlier ones; the action seen is the first sibling, K − 1 more are drawn
//
// It looks at no later turn and no outcome: a stopping time. But the first sibling was seen and the
// others were not: not exchangeable.
#include <cmath>

#include "tree/fork_rules/factories.h"
#include "tree/fork_rules/running.h"

namespace espalier::tree {
namespace {

constexpr size_t kTokens = 20;

class SampledEntropy final : public ForkRule {
 public:
  explicit SampledEntropy(const ForkRuleOptions& options) : options_(options) {}
  std::string name() const override { return "sampled_entropy"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return false; }
  bool decides_after_sampling() const override { return true; }
  int decide(const ForkContext&) override { return 1; }

  int decide_sampled(const ForkContext& context, std::span<const float> entropies) override {
    const auto first = entropies.first(std::min(kTokens, entropies.size()));
    double sum = 0;
    for (float entropy : first) sum += entropy;
    if (context.turn == 0 || first.empty() || !std::isfinite(sum)) return 1;
    const double mean = sum / static_cast<double>(first.size());
    const bool fork = may_fork(context, options_) && entropies_.exceeds(mean, options_.quantile);
    entropies_.observe(mean);
    return fork ? options_.branches : 1;
  }

  std::string save() const override {
    return nlohmann::json{{"rule", name()}, {"window", entropies_.save()}}.dump();
  }
  void restore(const std::string& state) override {
    read_state(name(), state,
               [this](const nlohmann::json& saved) { entropies_.restore(saved.at("window")); });
  }

 private:
  ForkRuleOptions options_;
  RunningQuantile entropies_;
};

}  // namespace

std::unique_ptr<ForkRule> make_sampled_entropy_rule(const ForkRuleOptions& options) {
  return std::make_unique<SampledEntropy>(options);
}

}  // namespace espalier::tree
