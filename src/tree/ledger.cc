#include "tree/ledger.h"

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
    {"env_steps", &Spend::env_steps},
    {"forks", &Spend::forks},
    {"leaves", &Spend::leaves},
    {"verifier_runs", &Spend::verifier_runs},
    {"selector_calls", &Spend::selector_calls},
    {"infra_failures", &Spend::infra_failures},
    {"learner_tokens", &Spend::learner_tokens},
    {"learner_tokens_linear", &Spend::learner_tokens_linear},
};
constexpr const char* kSandboxSeconds = "sandbox_seconds";

}  // namespace

Spend& Spend::operator+=(const Spend& other) {
  for (const Counter& counter : kCounters) this->*counter.field += other.*counter.field;
  sandbox_seconds += other.sandbox_seconds;
  return *this;
}

std::map<std::string, double> Spend::units() const {
  std::map<std::string, double> units{{kSandboxSeconds, sandbox_seconds}};
  for (const Counter& counter : kCounters)
    units[counter.name] = static_cast<double>(this->*counter.field);
  return units;
}

Ledger::Ledger(std::string unit, double limit) : unit_(std::move(unit)), limit_(limit) {
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

bool Ledger::exhausted() const { return limit_ > 0 && used() >= limit_; }

double Ledger::used() const { return total().units().at(unit_); }

std::string Ledger::save() const {
  const Spend spend = total();
  nlohmann::json saved{{kSandboxSeconds, spend.sandbox_seconds}};
  for (const Counter& counter : kCounters) saved[counter.name] = spend.*counter.field;
  return saved.dump();
}

void Ledger::restore(const std::string& state) {
  Spend spend;
  try {
    const auto saved = nlohmann::json::parse(state);
    for (const Counter& counter : kCounters) saved.at(counter.name).get_to(spend.*counter.field);
    saved.at(kSandboxSeconds).get_to(spend.sandbox_seconds);
  } catch (const nlohmann::json::exception& error) {
    throw common::StoreError(std::string("restore ledger: ") + error.what());
  }
  std::lock_guard lock(mutex_);
  total_ = spend;
}

}  // namespace espalier::tree
