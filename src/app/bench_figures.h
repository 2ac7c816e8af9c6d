// What the benchmarks share: timing and spreads.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

namespace espalier::app {

/// Wall clock of work.
double milliseconds(const std::function<void()>& work);

/// {"median", "p95", "n"} of the values; null when there are none.
nlohmann::json spread(std::vector<double> values);

/// The program's command line as it was given, words quoted where a shell needs it.
std::string command_line();

/// The figures as indented JSON, or as a table for people.
void print_figures(const nlohmann::json& figures, bool as_json);

}  // namespace espalier::app
