// online_entropy: branches where the entropy of the next action's first-token distribution exceeds
// a running quantile of what was seen before.
//
//   threshold = sorted(last W entropies)[⌊q·(n − 1)⌋]; fork when H > threshold and n ≥ 50; then H
//   joins the window.
//
// Entropies at turn 0 are not candidates and stay out. All of it is known before anything is
// sampled: a stopping time with exchangeable siblings.
#include <algorithm>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "tree/fork_rules/factories.h"

namespace espalier::tree {
namespace {

constexpr size_t kWindow = 4000;           // entropies kept
constexpr size_t kFirstObservations = 50;  // before these, nothing forks

class OnlineEntropy final : public ForkRule {
 public:
  explicit OnlineEntropy(const ForkRuleOptions& options) : options_(options) {}
  std::string name() const override { return "online_entropy"; }
  bool stopping_time() const override { return true; }
  bool exchangeable() const override { return true; }

  int decide(const ForkContext& context) override {
    if (context.turn == 0 || !std::isfinite(context.first_entropy)) return 1;
    const bool fork = may_fork(context, options_) && sorted_.size() >= kFirstObservations &&
                      context.first_entropy > threshold();
    observe(context.first_entropy);
    return fork ? options_.branches : 1;
  }

  std::string save() const override {
    return nlohmann::json{{"rule", name()}, {"window", window_}}.dump();
  }

  void restore(const std::string& state) override {
    std::deque<double> window;
    try {
      const auto saved = nlohmann::json::parse(state);
      if (saved.at("rule").get<std::string>() != name())
        throw common::StoreError("restore fork rule online_entropy: state of rule '" +
                                 saved.at("rule").get<std::string>() + "'");
      window = saved.at("window").get<std::deque<double>>();
    } catch (const nlohmann::json::exception& error) {
      throw common::StoreError(std::string("restore fork rule online_entropy: ") + error.what());
    }
    window_.clear();
    sorted_.clear();
    for (double entropy : window) observe(entropy);
  }

 private:
  double threshold() const {
    return sorted_[static_cast<size_t>(options_.quantile *
                                       static_cast<double>(sorted_.size() - 1))];
  }

  void observe(double entropy) {
    if (window_.size() == kWindow) {
      sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), window_.front()));
      window_.pop_front();
    }
    window_.push_back(entropy);
    sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), entropy), entropy);
  }

  ForkRuleOptions options_;
  std::deque<double> window_;   // oldest first
  std::vector<double> sorted_;  // the same values
};

}  // namespace

std::unique_ptr<ForkRule> make_online_entropy_rule(const ForkRuleOptions& options) {
  return std::make_unique<OnlineEntropy>(options);
}

}  // namespace espalier::tree
