// Running statistics that rules decide from, saved with checkpoints.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

/// Quantile of the newest values. Thread contract: one owner.
class RunningQuantile {
 public:
  static constexpr size_t kWindow = 4000;           // values kept
  static constexpr size_t kFirstObservations = 50;  // before these, nothing exceeds

  /// value > sorted(window)[⌊q·(n − 1)⌋], n ≥ kFirstObservations.
  bool exceeds(double value, double q) const;
  void observe(double value);
  nlohmann::json save() const { return window_; }
  void restore(const nlohmann::json& saved);

 private:
  std::deque<double> window_;   // oldest first
  std::vector<double> sorted_;  // the same values
};

/// Share of successes (reward > 0) by task, shrunk towards its family's and that towards all
/// tasks': p̂ = (s + κ·p̂_above)/(n + κ), κ = 4; above all tasks: ½.
class SuccessRates {
 public:
  void observe(std::span<const Tree> trees);
  double rate(const std::string& task, const std::string& family) const;
  bool empty() const { return all_.count == 0; }
  nlohmann::json save() const;
  void restore(const nlohmann::json& saved);

 private:
  struct Count {
    double successes = 0, count = 0;
  };
  Count all_;
  std::map<std::string, Count> families_, tasks_;
};

/// Mean tokens an episode still generates from a turn on.
class RemainingTokens {
 public:
  void observe(std::span<const Tree> trees);
  /// Of a turn never seen: that of the last one seen; nothing seen: nullopt.
  std::optional<double> from(int turn) const;
  nlohmann::json save() const { return {sum_, count_}; }
  void restore(const nlohmann::json& saved);

 private:
  std::vector<double> sum_, count_;  // by turn
};

/// Hands the parsed state of `rule` to `read`. Errors: StoreError when it is another rule's or not
/// what save() gives.
void read_state(const std::string& rule, const std::string& state,
                const std::function<void(const nlohmann::json&)>& read);

}  // namespace espalier::tree
