// espalier budget: what runs have spent, unit by unit, side by side.
#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "app/commands.h"
#include "app/report/run_data.h"
#include "common/error.h"

namespace espalier::app {
namespace {

struct BudgetArguments {
  std::vector<std::string> runs;
  bool json = false, steps = false;
};

using Units = std::map<std::string, double>;

/// Of the summary, or of the newest metrics while the run goes on; wall_s/<phase> beside the units.
Units spent_by(const RunData& run) {
  Units units;
  for (const MetricRow& row : run.rows)
    for (const auto& [name, value] : row.values)
      if (name.starts_with("budget/")) units[name.substr(7)] = value;
  for (const char* part : {"budget", "wall_s"}) {
    if (!run.summary.contains(part) || !run.summary[part].is_object()) continue;
    const std::string prefix = std::string(part) == "wall_s" ? "wall_s/" : "";
    for (const auto& [name, value] : run.summary[part].items())
      if (value.is_number()) units[prefix + name] = value.get<double>();
  }
  return units;
}

/// By step: what the run had spent when it was over.
std::map<uint64_t, Units> spent_by_step(const RunData& run) {
  std::map<uint64_t, Units> steps;
  Units before;
  for (const MetricRow& row : run.rows) {
    for (const auto& [name, value] : row.values) {
      if (!name.starts_with("budget/")) continue;
      const std::string unit = name.substr(7);
      steps[row.step][unit] = value - before[unit];
      before[unit] = value;
    }
    for (const char* phase : {"gen", "update_actor", "testing"}) {
      const auto found = row.values.find(std::string("timing_s/") + phase);
      if (found != row.values.end())
        steps[row.step][std::string("timing_s/") + phase] = found->second;
    }
  }
  return steps;
}

std::string number(double value) {
  if (std::abs(value) >= 1e12) return fmt::format("{:.4g}", value);
  return value == std::floor(value) ? fmt::format("{:.0f}", value) : fmt::format("{:.2f}", value);
}

void print_overshoot(const RunData& run) {
  const auto limit = number_at(run.summary, {"budget_limit", "limit"});
  if (!limit || *limit <= 0) return;
  const std::string unit = run.summary["budget_limit"].value("unit", "");
  const double over = number_at(run.summary, {"budget_limit", "overshoot"}).value_or(0);
  fmt::print("{}: budget {} {}, beyond it by {} ({:.2f} %)\n", run.name, number(*limit), unit,
             number(over), 100 * over / *limit);
}

void print_table(const std::vector<RunData>& runs) {
  std::vector<Units> spent;
  std::set<std::string> names;
  for (const RunData& run : runs) {
    spent.push_back(spent_by(run));
    for (const auto& [name, value] : spent.back()) names.insert(name);
  }
  fmt::print("{:<24}", "unit");
  for (size_t i = 0; i < runs.size(); ++i)
    fmt::print(" {:>20}{}", runs[i].name, i > 0 ? fmt::format(" {:>8}", "ratio") : "");
  fmt::print("\n");
  for (const std::string& name : names) {
    fmt::print("{:<24}", name);
    const auto first = spent.front().find(name);
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto found = spent[i].find(name);
      const bool there = found != spent[i].end();
      fmt::print(" {:>20}", there ? number(found->second) : "-");
      if (i == 0) continue;
      const bool comparable = there && first != spent.front().end() && first->second != 0;
      fmt::print(" {:>8}", comparable ? fmt::format("{:.3f}", found->second / first->second) : "-");
    }
    fmt::print("\n");
  }
  for (const RunData& run : runs) print_overshoot(run);
}

void print_steps(const std::vector<RunData>& runs) {
  for (const RunData& run : runs) {
    fmt::print("{}\n", run.name);
    for (const auto& [step, units] : spent_by_step(run)) {
      fmt::print("  step {}:", step);
      for (const auto& [name, value] : units)
        if (value != 0) fmt::print(" {} {}", name, number(value));
      fmt::print("\n");
    }
  }
}

nlohmann::json to_json(const std::vector<RunData>& runs) {
  nlohmann::json json = nlohmann::json::array();
  const Units first = spent_by(runs.front());
  for (const RunData& run : runs) {
    nlohmann::json one = {{"run", run.directory.string()}, {"spent", spent_by(run)}};
    for (const auto& [name, value] : spent_by(run)) {
      const auto base = first.find(name);
      if (base != first.end() && base->second != 0) one["ratio"][name] = value / base->second;
    }
    if (run.summary.contains("budget_limit")) one["limit"] = run.summary["budget_limit"];
    for (const auto& [step, units] : spent_by_step(run))
      one["steps"].push_back({{"step", step}, {"spent", units}});
    json.push_back(std::move(one));
  }
  return json;
}

}  // namespace

void add_budget_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<BudgetArguments>();
  CLI::App* command =
      app.add_subcommand("budget", "What runs have spent, unit by unit, with ratios to the first");
  command->add_option("runs", arguments->runs, "run directories")->required();
  command->add_flag("--json", arguments->json, "machine-readable, with every step");
  command->add_flag("--steps", arguments->steps, "every step's share");
  command->footer("Example:\n  espalier budget runs/tree runs/linear");
  command->callback([arguments, &exit_code] {
    std::vector<RunData> runs;
    for (const std::string& run : arguments->runs) runs.push_back(load_run(run));
    if (arguments->json) {
      fmt::print("{}\n", to_json(runs).dump(2));
    } else if (arguments->steps) {
      print_steps(runs);
    } else {
      print_table(runs);
    }
    exit_code = common::kExitOk;
  });
}

}  // namespace espalier::app
