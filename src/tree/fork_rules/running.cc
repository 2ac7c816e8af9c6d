#include "tree/fork_rules/running.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace espalier::tree {
namespace {

constexpr double kShrinkage = 4;  // episodes that the estimate above counts for

}  // namespace

bool RunningQuantile::exceeds(double value, double q) const {
  if (sorted_.size() < kFirstObservations) return false;
  return value > sorted_[static_cast<size_t>(q * static_cast<double>(sorted_.size() - 1))];
}

void RunningQuantile::observe(double value) {
  if (window_.size() == kWindow) {
    sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), window_.front()));
    window_.pop_front();
  }
  window_.push_back(value);
  sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), value), value);
}

void RunningQuantile::restore(const nlohmann::json& saved) {
  const auto window = saved.get<std::deque<double>>();
  window_.clear();
  sorted_.clear();
  for (double value : window) observe(value);
}

void SuccessRates::observe(std::span<const Tree> trees) {
  for (const Tree& tree : trees) {
    for (int leaf : tree.leaves()) {
      const Node& node = tree.nodes[static_cast<size_t>(leaf)];
      if (!node.reward) continue;
      for (Count* count : {&all_, &families_[tree.family], &tasks_[tree.task]}) {
        count->successes += *node.reward > 0 ? 1 : 0;
        count->count += 1;
      }
    }
  }
}

double SuccessRates::rate(const std::string& task, const std::string& family) const {
  auto shrink = [](const Count& count, double above) {
    return (count.successes + kShrinkage * above) / (count.count + kShrinkage);
  };
  auto find = [](const std::map<std::string, Count>& counts, const std::string& name) {
    const auto found = counts.find(name);
    return found == counts.end() ? Count{} : found->second;
  };
  return shrink(find(tasks_, task), shrink(find(families_, family), shrink(all_, 0.5)));
}

nlohmann::json SuccessRates::save() const {
  auto pairs = [](const std::map<std::string, Count>& counts) {
    nlohmann::json json = nlohmann::json::object();
    for (const auto& [name, count] : counts) json[name] = {count.successes, count.count};
    return json;
  };
  return {{"all", {all_.successes, all_.count}},
          {"families", pairs(families_)},
          {"tasks", pairs(tasks_)}};
}

void SuccessRates::restore(const nlohmann::json& saved) {
  SuccessRates fresh;
  auto count = [](const nlohmann::json& pair) {
    return Count{pair.at(0).get<double>(), pair.at(1).get<double>()};
  };
  fresh.all_ = count(saved.at("all"));
  for (const auto& [name, pair] : saved.at("families").items()) fresh.families_[name] = count(pair);
  for (const auto& [name, pair] : saved.at("tasks").items()) fresh.tasks_[name] = count(pair);
  *this = std::move(fresh);
}

void RemainingTokens::observe(std::span<const Tree> trees) {
  for (const Tree& tree : trees) {
    for (int leaf : tree.leaves()) {
      if (!tree.nodes[static_cast<size_t>(leaf)].reward) continue;
      double tokens = 0;
      for (int n = leaf; n >= 0; n = tree.nodes[static_cast<size_t>(n)].parent) {
        const Node& node = tree.nodes[static_cast<size_t>(n)];
        const size_t turn = static_cast<size_t>(node.turn);
        tokens += static_cast<double>(node.action.size());
        if (turn >= sum_.size()) {
          sum_.resize(turn + 1, 0.0);
          count_.resize(turn + 1, 0.0);
        }
        sum_[turn] += tokens;
        count_[turn] += 1;
      }
    }
  }
}

std::optional<double> RemainingTokens::from(int turn) const {
  if (sum_.empty()) return std::nullopt;
  const size_t at = std::min(static_cast<size_t>(std::max(turn, 0)), sum_.size() - 1);
  return std::max(sum_[at] / std::max(count_[at], 1.0), 1.0);
}

void RemainingTokens::restore(const nlohmann::json& saved) {
  auto sum = saved.at(0).get<std::vector<double>>();
  auto count = saved.at(1).get<std::vector<double>>();
  if (sum.size() != count.size()) throw common::StoreError("remaining tokens: unequal lengths");
  sum_ = std::move(sum);
  count_ = std::move(count);
}

void read_state(const std::string& rule, const std::string& state,
                const std::function<void(const nlohmann::json&)>& read) {
  try {
    const auto saved = nlohmann::json::parse(state);
    const auto owner = saved.at("rule").get<std::string>();
    if (owner != rule)
      throw common::StoreError("restore fork rule " + rule + ": state of rule '" + owner + "'");
    read(saved);
  } catch (const nlohmann::json::exception& error) {
    throw common::StoreError("restore fork rule " + rule + ": " + error.what());
  }
}

}  // namespace espalier::tree
