#include "app/evaluate.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "app/collect.h"
#include "envs/nursery/nursery.h"

namespace espalier::app {

namespace {

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

TaskScore score_of(const tree::Tree& tree) {
  TaskScore score;
  score.task = tree.task;
  score.family = tree.family;
  for (int leaf : tree.leaves()) {
    const tree::Node& node = tree.nodes[static_cast<size_t>(leaf)];
    if (!node.reward) ++score.failures;
    score.rewards.push_back(node.reward.value_or(0.0));
  }
  return score;
}

bool binary(const std::vector<TaskScore>& scores) {
  for (const TaskScore& score : scores) {
    for (double reward : score.rewards) {
      if (reward != 0.0 && reward != 1.0) return false;
    }
  }
  return true;
}

std::vector<double> pass_rates(const std::vector<TaskScore>& scores) {
  if (scores.empty() || !binary(scores)) return {};
  size_t least = scores.front().rewards.size();
  for (const TaskScore& score : scores) least = std::min(least, score.rewards.size());
  std::vector<double> rates;
  for (size_t k = 1; k <= least; ++k) {
    double sum = 0;
    for (const TaskScore& score : scores) {
      const auto right = std::count(score.rewards.begin(), score.rewards.end(), 1.0);
      sum += pass_at_k(static_cast<int>(score.rewards.size()), static_cast<int>(right),
                       static_cast<int>(k));
    }
    rates.push_back(sum / static_cast<double>(scores.size()));
  }
  return rates;
}

double standard_error(const std::vector<TaskScore>& scores, double mean) {
  const double n = static_cast<double>(scores.size());
  if (scores.empty()) return 0;
  double repeated = 0;
  for (const TaskScore& score : scores) {
    if (score.rewards.size() < 2) return std::sqrt(std::max(0.0, mean * (1 - mean)) / n);
    const double p = mean_of(score.rewards);
    repeated += p * (1 - p) / static_cast<double>(score.rewards.size() - 1);
  }
  return std::sqrt(repeated) / n;
}

std::map<std::string, std::vector<TaskScore>> by_family(const std::vector<TaskScore>& scores) {
  std::map<std::string, std::vector<TaskScore>> families;
  for (const TaskScore& score : scores) families[score.family].push_back(score);
  return families;
}

}  // namespace

double pass_at_k(int n, int c, int k) {
  if (n - c < k) return 1.0;
  double none = 1.0;
  for (int i = n - c + 1; i <= n; ++i) none *= 1.0 - static_cast<double>(k) / i;
  return 1.0 - none;
}

EvalResult summarise(std::vector<TaskScore> scores) {
  EvalResult result;
  result.n = scores.size();
  double sum = 0;
  for (const TaskScore& score : scores) {
    sum += mean_of(score.rewards);
    result.failures += static_cast<size_t>(score.failures);
  }
  result.mean = result.n ? sum / static_cast<double>(result.n) : 0;
  result.standard_error = standard_error(scores, result.mean);
  result.pass_at_k = pass_rates(scores);
  result.scores = std::move(scores);
  return result;
}

nlohmann::json EvalResult::to_json() const {
  nlohmann::json families = nlohmann::json::object();
  for (const auto& [family, scores_of] : by_family(scores)) {
    const EvalResult part = summarise(scores_of);
    families[family] = {{"mean", part.mean}, {"se", part.standard_error}, {"n", part.n}};
  }
  nlohmann::json json = {{"mean", mean},
                         {"se", standard_error},
                         {"n", n},
                         {"failures", failures},
                         {"by_family", families}};
  json["pass_at_k"] = nlohmann::json::object();
  for (size_t k = 1; k <= pass_at_k.size(); ++k)
    json["pass_at_k"][std::to_string(k)] = pass_at_k[k - 1];
  return json;
}

std::string EvalResult::table() const {
  std::string text =
      fmt::format("  {:<14} {:>5}  {:>15}  {}\n", "family", "tasks", "success", "failures");
  auto row = [&](const std::string& name, const EvalResult& part) {
    text += fmt::format("  {:<14} {:>5}  {:>6.3f} ± {:>6.3f}  {:>8}\n", name, part.n, part.mean,
                        part.standard_error, part.failures);
  };
  for (const auto& [family, scores_of] : by_family(scores))
    row(family.empty() ? "-" : family, summarise(scores_of));
  row("all", *this);
  return text;
}

EvalResult evaluate(Session& session, const EvalRequest& request) {
  std::vector<rollout::TreeRequest> requests;
  for (size_t i = 0; i < request.tasks.size(); ++i) {
    rollout::TreeRequest tree;
    tree.task = session.tasks->load(request.tasks[i]);
    tree.index = i;
    tree.step = request.step;
    tree.purpose = "eval";
    tree.roots = request.attempts;
    tree.may_fork = false;
    tree.sampling = sampling_options(session.config, request.temperature);
    requests.push_back(std::move(tree));
  }
  const std::vector<tree::Tree> trees =
      collect(*session.side_farm, std::move(requests), {request.label, {}});
  std::vector<TaskScore> scores;
  for (const tree::Tree& tree : trees) scores.push_back(score_of(tree));
  return summarise(std::move(scores));
}

std::vector<std::string> held_out_tasks(const common::Config& config) {
  const envs::nursery::Draw draw{config.data.families, config.eval.depth_min,
                                 config.eval.depth_max};
  std::vector<std::string> tasks;
  for (int i = 0; i < config.eval.n; ++i) {
    tasks.push_back(envs::nursery::draw_task(envs::nursery::Split::eval, config.seed,
                                             static_cast<uint64_t>(i), draw)
                        .name());
  }
  return tasks;
}

}  // namespace espalier::app
