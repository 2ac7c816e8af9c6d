#include "tree/ledger.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/error.h"

namespace espalier::tree {
namespace {

struct Counter {
  const char* name;
  uint64_t Spend::*field;
};

constexpr Counter kCounters[] = {
    {"generated_tokens", &Spend::generated_tokens},
    {"prefill_tokens", &Spend::prefill_tokens},
    {"cached_prefill_tokens", &Spend::cached_prefill_tokens},
    {"attended_tokens", &Spend::attended_tokens},
    {"env_steps", &Spend::env_steps},
    {"forks", &Spend::forks},
    {"leaves", &Spend::leaves},
    {"verifier_runs", &Spend::verifier_runs},
    {"selector_calls", &Spend::selector_calls},
    {"selector_tokens", &Spend::selector_tokens},
    {"selector_failures", &Spend::selector_failures},
    {"infra_failures", &Spend::infra_failures},
    {"learner_tokens", &Spend::learner_tokens},
    {"learner_tokens_linear", &Spend::learner_tokens_linear},
    {"trained_tokens", &Spend::trained_tokens},
    {"trained_attended", &Spend::trained_attended},
};

struct Measure {
  const char* name;
  double Spend::*field;
};

constexpr Measure kMeasures[] = {{"sandbox_seconds", &Spend::sandbox_seconds},
                                 {"selector_cost", &Spend::selector_cost}};

}  // namespace

Spend& Spend::operator+=(const Spend& other) {
  for (const Counter& counter : kCounters) this->*counter.field += other.*counter.field;
  for (const Measure& measure : kMeasures) this->*measure.field += other.*measure.field;
  return *this;
}

Spend Spend::operator-(const Spend& earlier) const {
  Spend rest = *this;
  for (const Counter& counter : kCounters) rest.*counter.field -= earlier.*counter.field;
  for (const Measure& measure : kMeasures) rest.*measure.field -= earlier.*measure.field;
  return rest;
}

double Spend::rollout_flops(const ModelCost& model) const {
  return 2 * model.parameters * static_cast<double>(generated_tokens + prefill_tokens) +
         4 * model.attention_width * static_cast<double>(attended_tokens);
}

double Spend::learner_flops(const ModelCost& model) const {
  return 6 * model.parameters * static_cast<double>(trained_tokens) +
         12 * model.attention_width * static_cast<double>(trained_attended);
}

std::map<std::string, double> Spend::units(const ModelCost& model) const {
  std::map<std::string, double> units{{"rollout_flops", rollout_flops(model)},
                                      {"learner_flops", learner_flops(model)},
                                      {"model_flops", rollout_flops(model) + learner_flops(model)}};
  for (const Counter& counter : kCounters)
    units[counter.name] = static_cast<double>(this->*counter.field);
  for (const Measure& measure : kMeasures) units[measure.name] = this->*measure.field;
  return units;
}

Ledger::Ledger(std::string unit, double limit, ModelCost model, const Spend& spent)
    : unit_(std::move(unit)), limit_(limit), model_(model), total_(spent) {
  const auto units = Spend{}.units();
  std::string names;
  for (const auto& [name, value] : units) names += (names.empty() ? "" : ", ") + name;
  if (!units.contains(unit_))
    throw common::ConfigError("budget: unknown unit '" + unit_ + "'; there are " + names);
  if (!std::isfinite(limit_) || limit_ < 0)
    throw common::ConfigError("budget: limit = " + std::to_string(limit_) +
                              " is out of range; allowed: >= 0 (0: no limit)");
}

void Ledger::add(const Spend& spend) {
  std::lock_guard lock(mutex_);
  total_ += spend;
}

Spend Ledger::total() const {
  std::lock_guard lock(mutex_);
  return total_;
}

bool Ledger::exhausted() const {
  if (limit_ <= 0) return false;
  Spend spend;
  {
    std::lock_guard lock(mutex_);
    spend = total_;
    const Spend fresh = total_ - trained_;
    // Each token of a tree is generated or computed once.
    const uint64_t tokens = fresh.generated_tokens + fresh.prefill_tokens;
    if (passes_ > 0) spend.learner_tokens += tokens;
    spend.trained_tokens += passes_ * tokens;
    spend.trained_attended += passes_ * fresh.attended_tokens;
  }
  return in_unit(spend) >= limit_;
}

double Ledger::used() const { return in_unit(total()); }

double Ledger::in_unit(const Spend& spend) const {
  for (const Counter& counter : kCounters)  // asked at every turn: no map
    if (unit_ == counter.name) return static_cast<double>(spend.*counter.field);
  return spend.units(model_).at(unit_);
}

void Ledger::expect_training(uint64_t passes) {
  std::lock_guard lock(mutex_);
  passes_ = passes;
}

void Ledger::trained(const Spend& so_far) {
  std::lock_guard lock(mutex_);
  trained_ = so_far;
}

double Ledger::overshoot() const { return limit_ > 0 ? std::max(used() - limit_, 0.0) : 0; }

std::string Ledger::save() const {
  const Spend spend = total();
  nlohmann::json saved;
  for (const Measure& measure : kMeasures) saved[measure.name] = spend.*measure.field;
  for (const Counter& counter : kCounters) saved[counter.name] = spend.*counter.field;
  return saved.dump();
}

void Ledger::restore(const std::string& state) {
  Spend spend;
  try {
    const auto saved = nlohmann::json::parse(state);
    for (const Counter& counter : kCounters) saved.at(counter.name).get_to(spend.*counter.field);
    for (const Measure& measure : kMeasures) saved.at(measure.name).get_to(spend.*measure.field);
  } catch (const nlohmann::json::exception& error) {
    throw common::StoreError(std::string("restore ledger: ") + error.what());
  }
  std::lock_guard lock(mutex_);
  total_ = trained_ = spend;
}

}  // namespace espalier::tree
