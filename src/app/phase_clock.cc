#include "app/phase_clock.h"

namespace espalier::app {

PhaseClock::Timer::~Timer() {
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  clock.seconds_[phase] += spent.count();
}

double PhaseClock::seconds(const std::string& phase) const {
  const auto found = seconds_.find(phase);
  return found == seconds_.end() ? 0 : found->second;
}

void PhaseClock::restore(const nlohmann::json& json) {
  for (const auto& [phase, seconds] : json.items()) seconds_[phase] = seconds.get<double>();
}

common::Metrics StepTimes::metrics() const {
  const double gen = clock_.seconds("rollout") - gen_, update = clock_.seconds("train") - update_,
               adv = clock_.seconds("adv") - adv_;
  const double tokens = static_cast<double>(ledger_.total().generated_tokens - tokens_);
  common::Metrics metrics = {{"timing_s/gen", gen},
                             {"timing_s/adv", adv},
                             {"timing_s/update_actor", update - adv},
                             {"perf/time_per_step", gen + update},
                             {"perf/throughput", tokens / (gen + update)}};
  const uint64_t forks = farm_.forks - forks_;
  if (forks > 0)
    metrics["tree/fork_ms"] =
        1e-3 * static_cast<double>(farm_.fork_us - fork_us_) / static_cast<double>(forks);
  return metrics;
}

}  // namespace espalier::app
