// The budget ledger: counts every unit a comparison at equal budget can be made in, and says when
// to stop.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace espalier::tree {

struct Spend {
  uint64_t generated_tokens = 0;
  uint64_t prefill_tokens = 0;         // computed
  uint64_t cached_prefill_tokens = 0;  // taken from a shared prefix
  uint64_t env_steps = 0;
  uint64_t forks = 0;
  uint64_t leaves = 0;
  uint64_t verifier_runs = 0;
  uint64_t selector_calls = 0;  // external models a fork rule asked
  uint64_t infra_failures = 0;
  uint64_t learner_tokens = 0;         // packed: each token once
  uint64_t learner_tokens_linear = 0;  // what the linearised batch would have had
  double sandbox_seconds = 0;
  Spend& operator+=(const Spend& other);
  /// Name → value of every unit, in a fixed order of names.
  std::map<std::string, double> units() const;
};

/// Thread contract: any thread.
class Ledger {
 public:
  /// unit: a name of Spend::units(); limit 0: no limit. Errors: ConfigError naming the units there
  /// are.
  Ledger(std::string unit, double limit);
  void add(const Spend& spend);
  Spend total() const;
  bool exhausted() const;
  double used() const;  // in the budget's unit
  double limit() const { return limit_; }
  const std::string& unit() const { return unit_; }
  std::string save() const;  // JSON, for checkpoints
  void restore(const std::string& state);

 private:
  std::string unit_;
  double limit_;
  mutable std::mutex mutex_;
  Spend total_;
};

}  // namespace espalier::tree
