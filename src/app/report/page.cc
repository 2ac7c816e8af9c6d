#include "app/report/page.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

#include "app/report/curves.h"
#include "app/report/style.h"
#include "app/report/tables.h"
#include "app/report/text.h"
#include "app/report/tree_view.h"
#include "common/version.h"

namespace espalier::app {
namespace {

struct Verdict {
  std::optional<double> mean, se, greedy;
};

/// From the summary, else from the first or latest evaluation among the metrics.
Verdict verdict(const RunData& run, const char* when) {
  Verdict result{number_at(run.summary, {"eval", when, "mean"}),
                 number_at(run.summary, {"eval", when, "se"}),
                 number_at(run.summary, {"eval", when, "greedy_mean"})};
  if (result.mean || run.finished()) return result;
  const auto take = [&](const MetricRow& row) {
    const auto value = [&](const char* key) -> std::optional<double> {
      const auto found = row.values.find(key);
      return found == row.values.end() ? std::nullopt : std::optional(found->second);
    };
    if (result.mean || !value("val/success/mean")) return;
    if ((std::string_view(when) == "before") != (row.step == 0)) return;
    result = {value("val/success/mean"), value("val/success/se"), value("val/greedy/mean")};
  };
  for (auto row = run.rows.rbegin(); row != run.rows.rend(); ++row) take(*row);
  return result;
}

std::string tile(const std::string& value, const std::string& label, const char* sign = "") {
  return fmt::format("<div class=\"tile\"><b class=\"{}\">{}</b><span>{}</span></div>\n", sign,
                     html(value), html(label));
}

std::string share(std::optional<double> value) {
  return value ? fmt::format("{:.1f}", *value * 100) : "\u2013";
}

std::string arrow(std::optional<double> before, std::optional<double> after) {
  return share(before) + " \u2192 " + share(after) + " %";
}

std::string change_tile(const Verdict& before, const Verdict& after) {
  if (!before.mean || !after.mean) return {};
  const double points = (*after.mean - *before.mean) * 100;
  const double error = 100 * std::hypot(before.se.value_or(0), after.se.value_or(0));
  std::string value = signed_number(points, 1);
  if (error > 0) value += fmt::format(" \u00b1 {:.1f}", error);
  return tile(value, "points gained (both standard errors, as if independent)",
              points > 0 ? "pos" : "neg");
}

std::string tiles(const RunData& run) {
  const Verdict before = verdict(run, "before"), after = verdict(run, "after");
  std::string out;
  if (before.mean || after.mean) {
    std::string label = run.finished() ? "success on held-out tasks, sampled"
                                       : "success on held-out tasks so far, sampled";
    if (before.se || after.se)
      label += fmt::format(" (SE {} and {})", share(before.se), share(after.se));
    out += tile(arrow(before.mean, after.mean), label) + change_tile(before, after);
  }
  if (before.greedy || after.greedy)
    out += tile(arrow(before.greedy, after.greedy), "success, greedy");
  if (!run.rows.empty() && run.rows.back().generated_tokens > 0)
    out += tile(human_count(run.rows.back().generated_tokens),
                fmt::format("tokens generated in {} steps", run.rows.back().step));
  if (const auto total = number_at(run.summary, {"wall_s", "total"}))
    out += tile(human_seconds(*total), "wall clock");
  return out.empty() ? out : "<div class=\"tiles\">\n" + out + "</div>\n";
}

std::string identity(const RunData& run) {
  std::string out = html(run.directory.string());
  if (!run.version.empty()) out += ", Espalier " + html(run.version);
  if (run.seed) out += fmt::format(", seed {}", *run.seed);
  if (const auto parameters = number_at(run.summary, {"model", "parameters"}))
    out += ", " + human_count(*parameters) + " parameters";
  return out;
}

std::string state_note(const RunData& run) {
  std::string out;
  if (!run.finished()) {
    const uint64_t step = run.rows.empty() ? 0 : run.rows.back().step;
    out = fmt::format(
        "<p class=\"note\">This run is not finished: it has no summary.json. Shown is what it "
        "wrote until "
        "step {}{}.</p>\n",
        step, run.planned_steps > 0 ? fmt::format(" of {}", run.planned_steps) : "");
  }
  for (const std::string& note : run.notes) out += "<p class=\"note\">" + html(note) + "</p>\n";
  return out;
}

std::string header(const std::vector<RunData>& runs) {
  std::string title;
  for (const RunData& run : runs) title += (title.empty() ? "" : " \u00b7 ") + html(run.name);
  std::string out = "<header>\n<h1>" + title + "</h1>\n";
  for (const RunData& run : runs) {
    if (runs.size() > 1) out += "<h3>" + html(run.name) + "</h3>\n";
    out += "<p class=\"quiet\">" + identity(run) + "</p>\n" + tiles(run) + state_note(run);
  }
  return out + "</header>\n";
}

std::string section(const char* title, const std::string& lead, const std::string& body) {
  if (body.empty()) return {};
  return fmt::format("<section>\n<h2>{}</h2>\n{}{}</section>\n", title,
                     lead.empty() ? "" : "<p class=\"quiet\">" + lead + "</p>\n", body);
}

std::string one_tree(const RunData& run, const ChosenTree& chosen, const std::string& anchor,
                     bool named) {
  const tree::Tree& tree = chosen.tree;
  std::string out = fmt::format("<h3>{}{}, step {}: {}</h3>\n", named ? html(run.name) + ", " : "",
                                html(chosen.caption), tree.step, html(tree.task));
  out += "<div class=\"treebox\">" + tree_svg(tree, {anchor, false}) + "</div>\n";
  if (tree.nodes.size() > kMostTurnsShown)
    out += fmt::format("<p class=\"quiet\">Drawn are the first {} of {} turns.</p>\n",
                       kMostTurnsShown, tree.nodes.size());
  out += fmt::format(
      "<details class=\"list\" open><summary>Turn by turn: whole outputs and numbers</summary>\n"
      "<pre>{}</pre>{}</details>\n",
      html(head_and_tail(tree.prompt, 4000)), tree_turns(tree, anchor));
  return out;
}

std::string trees(const std::vector<RunData>& runs) {
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i)
    for (size_t k = 0; k < runs[i].trees.size(); ++k)
      out += one_tree(runs[i], runs[i].trees[k], fmt::format("t{}-{}", i, k), runs.size() > 1);
  return out;
}

std::string configs(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs)
    if (!run.config_text.empty())
      out += fmt::format("<details><summary>{}</summary><pre>{}</pre></details>\n",
                         runs.size() > 1 ? "config.yaml of " + html(run.name) : "config.yaml",
                         html(run.config_text));
  return out;
}

constexpr const char* kTreeLead =
    "Each row is an episode in a shell of its own, read from left to right; where a line splits, "
    "the live shell was forked and both "
    "branches went on from the same state. A card shows the command, the start of its output, and "
    "the advantage that training gave "
    "the turn. Select a card for its whole output.";

/// What start-up warned of.
std::string warnings(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    if (!run.summary.contains("warnings") || !run.summary["warnings"].is_array()) continue;
    for (const auto& warning : run.summary["warnings"])
      if (warning.is_string())
        out += "<p class=\"note\">\u26a0 " + html(run.name) + ": " +
               html(warning.get<std::string>()) + "</p>\n";
  }
  return out;
}

}  // namespace

std::string report_page(const std::vector<RunData>& runs) {
  std::string title = "Espalier: ";
  for (size_t i = 0; i < runs.size(); ++i) title += (i > 0 ? ", " : "") + html(runs[i].name);
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"color-scheme\" content=\"light "
      "dark\">\n<style>{}{}{}</style>\n</head>\n<body>\n<main>\n",
      title, kThemeCss, kTreeCss, kPageCss);
  out += header(runs);
  out += warnings(runs);
  out += section("Learning curves", "", learning_curves(runs));
  out += section("Trees", kTreeLead, trees(runs));
  out += section("Success by family", "Held-out tasks, sampled, \u00b1 standard error in points.",
                 family_tables(runs));
  out += section("Ledger", "Everything a comparison at equal budget can be made in.",
                 ledger_table(runs));
  out += section("Training in detail", "", small_multiples(runs));
  out += section("Time", "", timing_tables(runs));
  out += section("How episodes ended", "", outcome_tables(runs));
  out += section("Configuration", "", configs(runs));
  out += fmt::format(
      "<footer>Written by espalier report, version {}. One file, no scripts, nothing loaded from "
      "elsewhere.</footer>\n",
      common::kVersion);
  return out + "</main>\n</body>\n</html>\n";
}

}  // namespace espalier::app
