#include "app/bench_estimators.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "app/progress.h"
#include "common/error.h"
#include "common/files.h"
#include "common/stop.h"

namespace espalier::app {
namespace {

using tree::EstimatorFigures;
using Names = std::vector<std::string>;

constexpr const char* kBegin = "<!-- begin: espalier bench estimators -->";
constexpr const char* kEnd = "<!-- end: espalier bench estimators -->";

Names names_of(const std::vector<EstimatorFigures>& figures, std::string EstimatorFigures::*field) {
  Names names;
  for (const EstimatorFigures& one : figures)
    if (std::find(names.begin(), names.end(), one.*field) == names.end())
      names.push_back(one.*field);
  return names;
}

using ByPair = std::map<std::pair<std::string, std::string>, const EstimatorFigures*>;

ByPair by_pair(const std::vector<EstimatorFigures>& figures) {
  ByPair pairs;
  for (const EstimatorFigures& one : figures) pairs[{one.estimator, one.rule}] = &one;
  return pairs;
}

template <class Cell>
std::string table_of(const std::vector<EstimatorFigures>& figures, const char* corner, Cell cell) {
  const Names rules = names_of(figures, &EstimatorFigures::rule);
  const ByPair pairs = by_pair(figures);
  std::string head = fmt::format("| {} |", corner), line = "|---|", rows;
  for (const std::string& rule : rules) {
    const auto any = std::find_if(figures.begin(), figures.end(),
                                  [&](const EstimatorFigures& one) { return one.rule == rule; });
    head += fmt::format(" `{}`{} |", rule, any->stopping_time ? "" : " *");
    line += "---|";
  }
  for (const std::string& estimator : names_of(figures, &EstimatorFigures::estimator)) {
    rows += fmt::format("| `{}` |", estimator);
    for (const std::string& rule : rules) rows += " " + cell(*pairs.at({estimator, rule})) + " |";
    rows += "\n";
  }
  return head + "\n" + line + "\n" + rows;
}

void write_docs(const EstimatorBenchArguments& arguments,
                const std::vector<EstimatorFigures>& figures) {
  const std::filesystem::path folder = arguments.docs, page = folder / "estimators.md";
  std::string text = common::read_file(page);
  const size_t begin = text.find(kBegin), end = text.find(kEnd);
  if (begin == std::string::npos || end == std::string::npos || end < begin)
    throw common::StoreError(
        fmt::format("write the benchmark into {}: it has no lines '{}' and "
                    "'{}' to write between",
                    page.string(), kBegin, kEnd));
  const tree::EstimatorBench& bench = arguments.bench;
  const std::string generated = fmt::format(
      "{}\n`espalier bench estimators --worlds {} --steps {} --seed {} --docs docs` "
      "({} roots, K = {}, at most {} forks a tree; steps of {} prompts)\n\n"
      "![bias and signal-to-noise of every estimator under every fork rule](images/"
      "estimators.svg)\n\n{}",
      kBegin, bench.worlds, bench.steps, bench.seed, bench.roots, bench.branches, bench.max_forks,
      bench.prompts, estimator_table(figures));
  text.replace(begin, end - begin, generated);
  common::write_file_atomically(page, text);
  common::write_file_atomically(folder / "images" / "estimators.svg", estimator_plot(figures));
}

nlohmann::json to_json(const EstimatorFigures& one) {
  return {{"estimator", one.estimator},
          {"rule", one.rule},
          {"stopping_time", one.stopping_time},
          {"credits_prefix", one.credits_prefix},
          {"bias", one.bias},
          {"bias_ci95", {one.bias_low, one.bias_high}},
          {"snr", one.snr},
          {"snr_se", one.snr_se},
          {"cosine", one.cosine},
          {"scale", one.scale},
          {"steps_per_tree", one.steps_per_tree},
          {"mixed_fork_rate", one.mixed_forks}};
}

// The plot.

constexpr int kRow = 26, kTop = 64, kNames = 180, kPanel = 330, kGap = 40;
const char* const kColors[] = {"#4c78a8", "#f58518", "#54a24b", "#e45756",
                               "#72b7b2", "#b279a2", "#9d755d", "#888888"};

std::string mark(double x, double y, bool stopping_time, const char* color,
                 const std::string& title) {
  const std::string shape =
      stopping_time
          ? fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" fill=\"{}\"", x, y, color)
          : fmt::format(
                "<path d=\"M{:.1f} {:.1f}l8 8m0 -8l-8 8\" stroke=\"{}\" "
                "stroke-width=\"2\" fill=\"none\"",
                x - 4, y - 4, color);
  return shape + "><title>" + title + "</title>" + (stopping_time ? "</circle>" : "</path>") + "\n";
}

struct Panel {
  const char* title;
  double left, most;
  std::vector<double> ticks;
  double at(double value) const { return left + kPanel * std::clamp(value / most, 0.0, 1.0); }
};

std::string grid(const Panel& panel, double bottom) {
  std::string out = fmt::format("<text x=\"{:.0f}\" y=\"{}\" font-weight=\"600\">{}</text>\n",
                                panel.left, kTop - 24, panel.title);
  for (double tick : panel.ticks)
    out += fmt::format(
        "<path d=\"M{0:.1f} {1}V{2:.0f}\" stroke=\"#8884\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\" font-size=\"10\">{4}</text>\n",
        panel.at(tick), kTop - 6, bottom, kTop - 10, tick);
  return out;
}

}  // namespace

void add_estimator_options(CLI::App& command, EstimatorBenchArguments& arguments) {
  tree::EstimatorBench& bench = arguments.bench;
  command.add_option("--worlds", bench.worlds, "random MDP shapes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("-n,--steps", bench.steps, "steps measured in each, for every rule")
      ->check(CLI::Range(2, 10000000))
      ->capture_default_str();
  command.add_option("--roots", bench.roots, "G")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--branches", bench.branches, "K")
      ->check(CLI::Range(2, 64))
      ->capture_default_str();
  command.add_option("--max-forks", bench.max_forks, "forks a tree")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--seed", bench.seed, "of every draw")->capture_default_str();
  command.add_option("--estimators", bench.estimators, "only these")->delimiter(',');
  command.add_option("--rules", bench.rules, "only these fork rules")->delimiter(',');
  command.add_option("--docs", arguments.docs,
                     "write table and plot into this folder's estimators.md and images/");
}

nlohmann::json bench_estimators(const EstimatorBenchArguments& arguments) {
  tree::EstimatorBench bench = arguments.bench;
  Progress bar("bench estimators", 100, "%");
  bench.progress = [&](double done) {
    bar.update(100 * done, "");
    return !common::stop_requested();
  };
  const std::vector<EstimatorFigures> figures = tree::bench_estimators(bench);
  bar.finish("");
  if (!arguments.docs.empty() && !common::stop_requested()) write_docs(arguments, figures);
  nlohmann::json arms = nlohmann::json::array();
  for (const EstimatorFigures& one : figures) arms.push_back(to_json(one));
  return {{"arms", arms},
          {"worlds", bench.worlds},
          {"n", bench.steps},
          {"prompts", bench.prompts},
          {"roots", bench.roots},
          {"branches", bench.branches},
          {"max_forks", bench.max_forks},
          {"seed", bench.seed}};
}

std::string estimator_table(const std::vector<EstimatorFigures>& figures) {
  std::string out = "Relative bias, [95 % confidence] over worlds (* no stopping time):\n\n";
  out += table_of(figures, "bias", [](const EstimatorFigures& one) {
    return fmt::format("{:.3f} [{:.3f}, {:.3f}]", one.bias, one.bias_low, one.bias_high);
  });
  out +=
      "\nUseful signal-to-noise an environment step, over flat leave-one-out's at as many steps "
      "(± standard error over worlds); mean cosine of one step's estimate with the exact "
      "gradient:\n\n";
  out += table_of(figures, "signal-to-noise; cosine", [](const EstimatorFigures& one) {
    return fmt::format("{:.2f} ± {:.2f}; {:.2f}", one.snr, one.snr_se, one.cosine);
  });
  out += "\nActions a tree, and share of forks whose branches ended differently: ";
  std::string list;
  for (const std::string& rule : names_of(figures, &EstimatorFigures::rule)) {
    const auto any = std::find_if(figures.begin(), figures.end(),
                                  [&](const EstimatorFigures& one) { return one.rule == rule; });
    list += fmt::format("{}`{}` {:.1f}, {:.0f} %", list.empty() ? "" : "; ", rule,
                        any->steps_per_tree, 100 * any->mixed_forks);
  }
  return out + list + ".\n";
}

std::string estimator_plot(const std::vector<EstimatorFigures>& figures) {
  const Names rules = names_of(figures, &EstimatorFigures::rule);
  const Names estimators = names_of(figures, &EstimatorFigures::estimator);
  double most_bias = 0.1, most_snr = 1.2;
  for (const EstimatorFigures& one : figures) {
    most_bias = std::max(most_bias, one.bias);
    most_snr = std::max(most_snr, one.snr);
  }
  most_bias = std::min(std::ceil(10 * most_bias) / 10, 1.0);
  most_snr = std::min(std::ceil(5 * most_snr) / 5, 3.0);
  const Panel panels[] = {
      {"relative bias", kNames, most_bias, {0, most_bias / 4, most_bias / 2, most_bias}},
      {"signal-to-noise a step, flat leave-one-out = 1",
       kNames + kPanel + kGap,
       most_snr,
       {0, 0.5, 1, most_snr}}};
  const double bottom = kTop + kRow * static_cast<double>(estimators.size());
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {:.0f}\" "
      "font-family=\"system-ui, "
      "sans-serif\" font-size=\"12\" fill=\"#666\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#fff\"/>\n",
      kNames + 2 * kPanel + kGap + 30, bottom + 40);
  for (const Panel& panel : panels) out += grid(panel, bottom);
  const ByPair pairs = by_pair(figures);
  for (size_t e = 0; e < estimators.size(); ++e) {
    const double y = kTop + kRow * (static_cast<double>(e) + 0.5);
    out += fmt::format("<text x=\"{}\" y=\"{:.0f}\" text-anchor=\"end\">{}</text>\n", kNames - 12,
                       y + 4, estimators[e]);
    for (size_t r = 0; r < rules.size(); ++r) {
      const EstimatorFigures& one = *pairs.at({estimators[e], rules[r]});
      const char* color = kColors[r % std::size(kColors)];
      const std::string title = fmt::format("{} under {}: bias {:.3f}, signal-to-noise {:.2f}",
                                            one.estimator, one.rule, one.bias, one.snr);
      out += mark(panels[0].at(one.bias), y, one.stopping_time, color, title);
      out += mark(panels[1].at(one.snr), y, one.stopping_time, color, title);
    }
  }
  double x = kNames;
  for (size_t r = 0; r < rules.size(); ++r) {
    const EstimatorFigures& any = *pairs.at({estimators.front(), rules[r]});
    out += mark(x, bottom + 20, any.stopping_time, kColors[r % std::size(kColors)], rules[r]);
    out += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" font-size=\"11\">{}</text>\n", x + 9,
                       bottom + 24, rules[r]);
    x += 26 + 6.6 * static_cast<double>(rules[r].size());
  }
  return out + "</svg>\n";
}

}  // namespace espalier::app
