#include "app/report/tables.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <set>

#include "app/report/text.h"

namespace espalier::app {
namespace {

using nlohmann::json;

constexpr int kColors = 6;

struct Unit {
  const char* key;
  const char* title;
};

constexpr Unit kUnits[] = {
    {"generated_tokens", "Generated tokens"},
    {"prefill_tokens", "Prefilled tokens, computed"},
    {"cached_prefill_tokens", "Prefilled tokens, from a shared prefix"},
    {"learner_tokens", "Learner tokens, packed (each once)"},
    {"learner_tokens_linear", "Learner tokens, had they been linear"},
    {"leaves", "Episodes (leaves)"},
    {"env_steps", "Environment steps"},
    {"forks", "Forks"},
    {"verifier_runs", "Verifier runs"},
    {"selector_calls", "Selector calls"},
    {"selector_tokens", "Selector tokens"},
    {"selector_failures", "Selector calls without a usable answer"},
    {"selector_cost", "Selector cost"},
    {"infra_failures", "Infrastructure failures"},
    {"sandbox_seconds", "Sandbox time"},
    {"attended_tokens", "Tokens attended to in rollout"},
    {"trained_tokens", "Tokens trained on (every epoch)"},
    {"trained_attended", "Tokens attended to in training"},
    {"rollout_flops", "Model FLOPs, rollout"},
    {"learner_flops", "Model FLOPs, learner"},
    {"model_flops", "Model FLOPs"},
};

std::string heading(const std::vector<RunData>& runs, const RunData& run) {
  return runs.size() == 1 ? "" : "<h3>" + html(run.name) + "</h3>";
}

std::optional<double> spent(const RunData& run, const std::string& key) {
  if (const auto value = number_at(run.summary, {"budget", key.c_str()})) return value;
  for (auto row = run.rows.rbegin(); row != run.rows.rend(); ++row) {
    const auto found = row->values.find("budget/" + key);
    if (found != row->values.end()) return found->second;
  }
  return std::nullopt;
}

std::string amount(const std::string& key, std::optional<double> value) {
  if (!value) return "\u2013";
  const bool seconds = key.ends_with("seconds");
  const std::string easy = seconds ? human_seconds(*value) : human_count(*value);
  const std::string exact = exact_count(*value);
  if (seconds || easy == exact) return easy;
  return easy + " <small>" + exact + "</small>";
}

std::string ledger_row(const std::vector<RunData>& runs, const std::string& key,
                       const std::string& title) {
  std::string cells;
  bool any = false;
  const auto first = spent(runs.front(), key);
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto value = spent(runs[i], key);
    any |= value.has_value();
    cells += "<td class=\"n\">" + amount(key, value) + "</td>";
    if (i == 0) continue;
    const bool comparable = value && first && *first > 0;
    cells += "<td class=\"n\">" +
             (comparable ? fmt::format("{:.2f} \u00d7", *value / *first) : "\u2013") + "</td>";
  }
  if (!any) return {};
  return "<tr><td>" + html(title) + "</td>" + cells + "</tr>\n";
}

/// A row of a figure derived from two units.
template <class Format>
std::string derived_row(const std::vector<RunData>& runs, const char* title, Format format) {
  std::string cells;
  bool any = false;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string text = format(runs[i]);
    any |= !text.empty();
    cells += "<td class=\"n\">" + (text.empty() ? "\u2013" : text) + "</td>" +
             (i > 0 ? "<td></td>" : "");
  }
  return any ? "<tr><td>" + html(title) + "</td>" + cells + "</tr>\n" : "";
}

std::string derived_rows(const std::vector<RunData>& runs) {
  std::string out =
      derived_row(runs, "Share of prefill taken from shared prefixes", [](const RunData& run) {
        const double computed = spent(run, "prefill_tokens").value_or(0);
        const double cached = spent(run, "cached_prefill_tokens").value_or(0);
        return computed + cached > 0 ? percent(cached / (computed + cached)) : std::string();
      });
  out += derived_row(
      runs, "Learner tokens saved by packing (linear / packed)", [](const RunData& run) {
        const double packed = spent(run, "learner_tokens").value_or(0);
        const double linear = spent(run, "learner_tokens_linear").value_or(0);
        return packed > 0 && linear > 0 ? fmt::format("{:.2f} \u00d7", linear / packed)
                                        : std::string();
      });
  out += derived_row(runs, "Beyond its budget when it stopped", [](const RunData& run) {
    const auto over = number_at(run.summary, {"budget_limit", "overshoot"});
    if (!over || number_at(run.summary, {"budget_limit", "limit"}).value_or(0) <= 0)
      return std::string();
    return exact_count(*over) + " " + html(run.summary["budget_limit"].value("unit", ""));
  });
  out += derived_row(runs, "Generated tokens a second of rollout", [](const RunData& run) {
    const double tokens = spent(run, "generated_tokens").value_or(0);
    const double seconds = number_at(run.summary, {"wall_s", "rollout"}).value_or(0);
    return seconds > 0 && tokens > 0 ? human_count(std::round(tokens / seconds)) : std::string();
  });
  return out;
}

/// Where a share lies between 0 and 1 before and after, as a small picture.
std::string track(std::optional<double> before, std::optional<double> after) {
  const auto x = [](double share) { return 6 + 208 * std::clamp(share, 0.0, 1.0); };
  std::string out =
      "<svg class=\"track chart\" viewBox=\"0 0 220 14\" aria-hidden=\"true\">"
      "<line class=\"grid\" x1=\"6\" x2=\"214\" y1=\"7\" y2=\"7\"/>";
  if (before && after)
    out += fmt::format("<path class=\"curve s0\" d=\"M{:.1f} 7H{:.1f}\"/>", x(*before), x(*after));
  if (before)
    out += fmt::format("<circle class=\"mark hollow s0\" cx=\"{:.1f}\" cy=\"7\" r=\"4\"/>",
                       x(*before));
  if (after)
    out += fmt::format("<circle class=\"mark s0\" cx=\"{:.1f}\" cy=\"7\" r=\"5\"/>", x(*after));
  return out + "</svg>";
}

struct FamilyResult {
  std::optional<double> mean, se, n;
};

/// A family's entry: an object with mean, se, n, or a bare number.
FamilyResult family_result(const RunData& run, const char* when, const std::string& family) {
  FamilyResult result;
  result.mean = number_at(run.summary, {"eval", when, "by_family", family.c_str()});
  if (result.mean) return result;
  result.mean = number_at(run.summary, {"eval", when, "by_family", family.c_str(), "mean"});
  result.se = number_at(run.summary, {"eval", when, "by_family", family.c_str(), "se"});
  result.n = number_at(run.summary, {"eval", when, "by_family", family.c_str(), "n"});
  return result;
}

std::set<std::string> families_of(const RunData& run) {
  std::set<std::string> names;
  for (const char* when : {"before", "after"}) {
    const json::json_pointer at("/eval/" + std::string(when) + "/by_family");
    if (!run.summary.contains(at) || !run.summary.at(at).is_object()) continue;
    for (const auto& [name, value] : run.summary.at(at).items()) names.insert(name);
  }
  return names;
}

std::string share_cell(const FamilyResult& result) {
  if (!result.mean) return "<td class=\"n\">\u2013</td>";
  std::string text = percent(*result.mean, 0);
  if (result.se) text += fmt::format(" <small>\u00b1 {:.0f}</small>", *result.se * 100);
  return "<td class=\"n\">" + text + "</td>";
}

std::string family_row(const RunData& run, const std::string& family) {
  const FamilyResult before = family_result(run, "before", family);
  const FamilyResult after = family_result(run, "after", family);
  std::string change = "<td class=\"n\">\u2013</td>";
  if (before.mean && after.mean) {
    const double points = (*after.mean - *before.mean) * 100;
    change = fmt::format("<td class=\"n {}\">{}</td>",
                         points > 0.5    ? "pos"
                         : points < -0.5 ? "neg"
                                         : "zero",
                         signed_number(points, 0));
  }
  const auto n = after.n ? after.n : before.n;
  return fmt::format("<tr><td>{}</td><td class=\"n\">{}</td>{}{}{}<td>{}</td></tr>\n",
                     family.empty() ? "\u2013" : html(family), n ? exact_count(*n) : "\u2013",
                     share_cell(before), share_cell(after), change, track(before.mean, after.mean));
}

/// A bar split in shares, with the table that names them.
std::string shares(const std::vector<std::pair<std::string, double>>& parts, bool seconds) {
  double total = 0;
  for (const auto& [name, value] : parts) total += value;
  if (total <= 0) return {};
  std::string bar, rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [name, value] = parts[i];
    const double share = value / total;
    bar += fmt::format("<i class=\"k{}\" style=\"width:{:.2f}%\"></i>", i % kColors, share * 100);
    rows += fmt::format(
        "<tr><td><span class=\"swatch k{}\"></span>{}</td><td class=\"n\">{}</td>"
        "<td class=\"n\">{}</td></tr>\n",
        i % kColors, html(name), seconds ? human_seconds(value) : exact_count(value),
        percent(share));
  }
  return "<div class=\"meter\" aria-hidden=\"true\">" + bar + "</div><table>" + rows + "</table>\n";
}

std::vector<std::pair<std::string, double>> phases_of(const RunData& run) {
  std::vector<std::pair<std::string, double>> parts;
  if (run.summary.contains("wall_s") && run.summary["wall_s"].is_object()) {
    double named = 0;
    for (const char* phase : {"setup", "sft", "rollout", "train", "eval"}) {
      const auto value = number_at(run.summary, {"wall_s", phase});
      if (value && *value > 0) parts.emplace_back(phase, *value), named += *value;
    }
    const double rest = number_at(run.summary, {"wall_s", "total"}).value_or(0) - named;
    if (rest > 0.05) parts.emplace_back("other", rest);
    return parts;
  }
  std::map<std::string, double> sums;
  for (const MetricRow& row : run.rows)
    for (const auto& [key, value] : row.values)
      if (key.starts_with("timing_s/")) sums[key.substr(9)] += value;
  parts.assign(sums.begin(), sums.end());
  return parts;
}

}  // namespace

std::string family_tables(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    const std::set<std::string> families = families_of(run);
    if (families.empty()) continue;
    out += "<div>" + heading(runs, run) +
           "<div class=\"scroll\"><table><thead><tr><th>family</th><th class=\"n\">tasks</th><th "
           "class=\"n\">before</th>"
           "<th class=\"n\">after</th><th class=\"n\">points</th><th>0 \u2026 100 % (\u25cb "
           "before, \u25cf after)</th></tr></thead>\n<tbody>";
    for (const std::string& family : families) out += family_row(run, family);
    out += "</tbody></table></div></div>\n";
  }
  return out.empty() ? out : "<div class=\"two\">" + out + "</div>\n";
}

std::string ledger_table(const std::vector<RunData>& runs) {
  std::string rows;
  std::set<std::string> known;
  for (const Unit& unit : kUnits) {
    known.insert(unit.key);
    rows += ledger_row(runs, unit.key, unit.title);
  }
  std::set<std::string> others;
  for (const RunData& run : runs)
    if (run.summary.contains("budget") && run.summary["budget"].is_object())
      for (const auto& [key, value] : run.summary["budget"].items())
        if (value.is_number() && !known.count(key)) others.insert(key);
  for (const std::string& key : others) rows += ledger_row(runs, key, key);
  if (rows.empty()) return {};
  rows += derived_rows(runs);
  std::string head = "<th>unit</th>";
  for (size_t i = 0; i < runs.size(); ++i) {
    head += "<th class=\"n\">" + html(runs.size() == 1 ? "spent" : runs[i].name) + "</th>";
    if (i > 0) head += "<th class=\"n\">\u00f7 " + html(runs.front().name) + "</th>";
  }
  return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead>\n<tbody>" + rows +
         "</tbody></table></div>\n";
}

std::string timing_tables(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    const std::string table = shares(phases_of(run), true);
    if (table.empty()) continue;
    out += "<div>" + heading(runs, run) + table;
    if (const auto total = number_at(run.summary, {"wall_s", "total"}))
      out += "<p class=\"quiet\">" + human_seconds(*total) + " in all.</p>";
    out += "</div>\n";
  }
  return out;
}

std::string outcome_tables(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    std::vector<std::pair<std::string, double>> counts(run.outcomes.begin(), run.outcomes.end());
    std::stable_sort(counts.begin(), counts.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    const std::string table = shares(counts, false);
    if (table.empty()) continue;
    out += "<div>" + heading(runs, run) + table;
    if (run.shards_read < run.shards)
      out += fmt::format("<p class=\"quiet\">Of {} of the {} stored steps.</p>", run.shards_read,
                         run.shards);
    out += "</div>\n";
  }
  return out;
}

}  // namespace espalier::app
