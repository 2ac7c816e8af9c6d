#include "app/report/curves.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <functional>

#include "app/report/chart.h"
#include "app/report/text.h"

namespace espalier::app {
namespace {

struct Panel {
  const char* key;
  const char* title;
  const char* unit;
  bool share;  // between 0 and 1, shown in percent
};

constexpr Panel kPanels[] = {
    {"actor/entropy", "Policy entropy", "nats a token", false},
    {"actor/grad_norm", "Gradient norm", "before clipping", false},
    {"actor/ppo_kl", "KL of the update", "old to new policy", false},
    {"actor/pg_clipfrac", "Clipped tokens", "share", true},
    {"actor/pg_loss", "Policy loss", "", false},
    {"response_length/mean", "Action length", "tokens a turn", false},
    {"num_turns/mean", "Episode length", "turns", false},
    {"tree/forks", "Forks", "a tree", false},
    {"tree/branch_factor", "Branch factor", "leaves a root", false},
    {"tree/mixed_fork_rate", "Mixed forks", "branches earned differently", true},
    {"tree/mixed_rate", "Mixed trees", "episodes earned differently", true},
    {"tree/token_ratio", "Token ratio", "linear / packed", false},
    {"tree/fork_ms", "Time of a fork", "ms", false},
    {"training/rollout_probs_diff_mean", "Rollout \u2013 learner", "mean |\u0394 probability|",
     false},
    {"env/infra_failed_rate", "Infrastructure failures", "share of episodes", true},
    {"perf/throughput", "Throughput", "generated tokens/s", false},
    {"perf/time_per_step", "Time of a step", "s", false},
};

using Axis = std::function<double(const MetricRow&)>;

bool by_tokens(const std::vector<RunData>& runs) {
  return std::all_of(runs.begin(), runs.end(), [](const RunData& run) {
    return !run.rows.empty() && run.rows.back().generated_tokens > 0;
  });
}

std::vector<ChartPoint> points_of(const RunData& run, const Axis& axis, const std::string& key,
                                  const std::string& error_key = {}) {
  std::vector<ChartPoint> points;
  for (const MetricRow& row : run.rows) {
    const auto found = row.values.find(key);
    if (found == row.values.end()) continue;
    const auto error = row.values.find(error_key);
    points.push_back({axis(row), found->second, error == row.values.end() ? 0 : error->second});
  }
  return points;
}

std::string labelled(const std::vector<RunData>& runs, const RunData& run,
                     const std::string& what) {
  return runs.size() == 1 ? what : run.name + ": " + what;
}

void add_success(const std::vector<RunData>& runs, const Axis& axis, std::vector<Series>& out) {
  for (size_t i = 0; i < runs.size(); ++i) {
    const int color = static_cast<int>(i);
    Series sampled;
    sampled.label = labelled(runs, runs[i], "held-out success, sampled (\u00b1 SE)");
    sampled.color = color;
    sampled.mark = Mark::dot;
    sampled.points = points_of(runs[i], axis, "val/success/mean", "val/success/se");
    Series greedy;
    greedy.label = labelled(runs, runs[i], "held-out success, greedy");
    greedy.color = runs.size() == 1 ? 2 : color;
    greedy.dashed = true;
    greedy.mark = Mark::diamond;
    greedy.points = points_of(runs[i], axis, "val/greedy/mean", "val/greedy/se");
    out.push_back(std::move(sampled));
    out.push_back(std::move(greedy));
  }
}

void add_reward(const std::vector<RunData>& runs, const Axis& axis, std::vector<Series>& out) {
  for (size_t i = 0; i < runs.size(); ++i) {
    Series raw;
    raw.label = labelled(runs, runs[i], "training reward, each step");
    raw.color = runs.size() == 1 ? 1 : static_cast<int>(i);
    raw.faint = true;
    raw.points = points_of(runs[i], axis, "critic/score/mean");
    Series smooth = raw;
    smooth.label = labelled(runs, runs[i], "training reward, smoothed");
    smooth.faint = false;
    smooth.points = smoothed(raw.points);
    out.push_back(std::move(raw));
    out.push_back(std::move(smooth));
  }
}

bool all_shares(const std::vector<Series>& series) {
  for (const Series& one : series)
    for (const ChartPoint& point : one.points)
      if (point.y < 0 || point.y > 1) return false;
  return true;
}

std::string figure(const std::string& caption, ChartOptions options,
                   const std::vector<Series>& series) {
  options.title = caption;
  const std::string chart = draw_chart(options, series);
  if (chart.empty()) return {};
  return "<figure><figcaption>" + html(caption) + "</figcaption>" + draw_legend(series) +
         "<div class=\"wide\">" + chart + "</div></figure>\n";
}

}  // namespace

std::string learning_curves(const std::vector<RunData>& runs) {
  const bool tokens = by_tokens(runs);
  const Axis axis = [tokens](const MetricRow& row) {
    return tokens ? row.generated_tokens : static_cast<double>(row.step);
  };
  ChartOptions options;
  options.x_label = tokens ? "generated tokens" : "training step";
  options.width = 1150;
  std::vector<Series> success, reward;
  add_success(runs, axis, success);
  add_reward(runs, axis, reward);
  if (runs.size() == 1) {
    success.insert(success.begin(), reward.begin(), reward.end());  // evaluations on top
    options.y_scale = all_shares(success) ? Scale::percent : Scale::number;
    return figure("Success and reward while training", options, success);
  }
  options.y_scale = all_shares(success) ? Scale::percent : Scale::number;
  std::string out = figure("Success on held-out tasks", options, success);
  options.y_scale = all_shares(reward) ? Scale::percent : Scale::number;
  return out + figure("Mean reward of training episodes", options, reward);
}

std::string small_multiples(const std::vector<RunData>& runs) {
  const Axis axis = [](const MetricRow& row) { return static_cast<double>(row.step); };
  std::string out;
  for (const Panel& panel : kPanels) {
    std::vector<Series> series;
    bool varies = false;
    for (size_t i = 0; i < runs.size(); ++i) {
      Series raw;
      raw.label = runs[i].name;
      raw.color = static_cast<int>(i);
      raw.points = points_of(runs[i], axis, panel.key);
      varies |= std::any_of(raw.points.begin(), raw.points.end(),
                            [](const ChartPoint& p) { return p.y != 0; });
      if (raw.points.size() >= 20) {
        Series smooth = raw;
        smooth.points = smoothed(raw.points);
        raw.faint = true;
        series.push_back(std::move(raw));
        series.push_back(std::move(smooth));
      } else {
        series.push_back(std::move(raw));
      }
    }
    if (!varies) continue;  // all zero says nothing that a flat line would add
    ChartOptions options;
    options.title = std::string(panel.title) + " by step";
    options.x_label = "step";
    options.width = 360;
    options.height = 190;
    options.y_scale = panel.share ? Scale::percent : Scale::number;
    const std::string chart = draw_chart(options, series);
    if (chart.empty()) continue;
    out += fmt::format("<figure><figcaption>{} <small>{}</small></figcaption>{}</figure>\n",
                       panel.title, panel.unit, chart);
  }
  std::vector<Series> key(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    key[i].label = runs[i].name;
    key[i].color = static_cast<int>(i);
    key[i].points.resize(1);
  }
  return out.empty() ? out : draw_legend(key) + "<div class=\"small\">\n" + out + "</div>\n";
}

}  // namespace espalier::app
