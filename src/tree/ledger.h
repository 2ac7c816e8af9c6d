// The budget ledger: counts every unit a comparison at equal budget can be made in, and says when
// to stop.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace espalier::tree {

/// What a token costs the policy: floating-point operations, a multiply-add counting two.
struct ModelCost {
  double parameters = 0;
  double attention_width = 0;  // layers · heads · head width
};

struct Spend {
  uint64_t generated_tokens = 0;
  uint64_t prefill_tokens = 0;         // computed
  uint64_t cached_prefill_tokens = 0;  // taken from a shared prefix
  uint64_t attended_tokens = 0;        // Σ over generated and computed tokens of those before them
  uint64_t env_steps = 0;
  uint64_t forks = 0;
  uint64_t leaves = 0;
  uint64_t verifier_runs = 0;
  uint64_t selector_calls = 0;  // external models a fork rule asked
  uint64_t selector_tokens = 0;
  uint64_t selector_failures = 0;  // calls that picked nothing because of an error
  uint64_t infra_failures = 0;
  uint64_t learner_tokens = 0;         // packed: each token once
  uint64_t learner_tokens_linear = 0;  // what the linearised batch would have had
  uint64_t trained_tokens = 0;         // forward and backward passes made, in tokens
  uint64_t trained_attended = 0;       // Σ over those of the tokens before them
  double sandbox_seconds = 0;
  double selector_cost = 0;  // in the currency of the selector's prices
  Spend& operator+=(const Spend& other);
  Spend operator-(const Spend& earlier) const;
  /// 2·parameters a token generated or prefilled and not cached, plus 4·attention_width a token it
  /// attends to.
  double rollout_flops(const ModelCost& model) const;
  /// Three times as much (forward and backward) a token trained on.
  double learner_flops(const ModelCost& model) const;
  /// Name → value of every unit, in a fixed order of names.
  std::map<std::string, double> units(const ModelCost& model = {}) const;
};

/// Thread contract: any thread.
class Ledger {
 public:
  /// unit: a name of Spend::units(); limit 0: no limit. Errors: ConfigError naming the units there
  /// are.
  Ledger(std::string unit, double limit, ModelCost model = {}, const Spend& spent = {});
  void add(const Spend& spend);
  Spend total() const;
  /// Whether used() with what training on the newest tokens will take has reached the limit.
  bool exhausted() const;
  double used() const;  // in the budget's unit
  /// Every token that is generated or computed will be trained on `passes` times (0: none will):
  /// exhausted() counts that as spent from then on, so that no update goes beyond the budget.
  /// trained(): what was generated up to `so_far` is in the total now, or never will be.
  void expect_training(uint64_t passes);
  void trained(const Spend& so_far);
  std::map<std::string, double> units() const { return total().units(model_); }
  const ModelCost& model() const { return model_; }
  double limit() const { return limit_; }
  /// How far `used` is beyond the limit: what was on its way when it was reached. 0: not reached.
  double overshoot() const;
  const std::string& unit() const { return unit_; }
  std::string save() const;  // JSON, for checkpoints
  void restore(const std::string& state);

 private:
  std::string unit_;
  double limit_;
  ModelCost model_;
  double in_unit(const Spend& spend) const;

  mutable std::mutex mutex_;
  Spend total_;
  uint64_t passes_ = 0;
  Spend trained_;  // what was spent on the tokens trained on
};

}  // namespace espalier::tree
