// Where a run's wall-clock time goes.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/metrics.h"
#include "rollout/farm.h"
#include "tree/ledger.h"

namespace espalier::app {

/// Seconds by phase. Thread contract: one owner.
class PhaseClock {
 public:
  /// Runs f and adds its wall-clock time to the phase.
  template <class F>
  auto measure(const std::string& phase, F&& f) {
    const Timer timer{*this, phase, std::chrono::steady_clock::now()};
    return f();
  }
  double seconds(const std::string& phase) const;
  nlohmann::json to_json() const { return seconds_; }
  void restore(const nlohmann::json& json);

 private:
  struct Timer {
    PhaseClock& clock;
    std::string phase;
    std::chrono::steady_clock::time_point start;
    ~Timer();
  };
  std::map<std::string, double> seconds_;
};

/// What one step took, under the names of the timing metrics: the only metrics that differ between
/// equal runs.
class StepTimes {
 public:
  StepTimes(const PhaseClock& clock, const rollout::FarmProgress& farm, const tree::Ledger& ledger)
      : clock_(clock),
        farm_(farm),
        ledger_(ledger),
        gen_(clock.seconds("rollout")),
        update_(clock.seconds("train")),
        adv_(clock.seconds("adv")),
        fork_us_(farm.fork_us),
        forks_(farm.forks),
        tokens_(ledger.total().generated_tokens) {}

  common::Metrics metrics() const;

 private:
  const PhaseClock& clock_;
  const rollout::FarmProgress& farm_;
  const tree::Ledger& ledger_;
  double gen_, update_, adv_;
  uint64_t fork_us_, forks_, tokens_;
};

}  // namespace espalier::app
