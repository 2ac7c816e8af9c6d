// espalier bench estimators: figures, and with them the table and the plot of docs/estimators.md.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tree/bench/estimator_bench.h"

namespace espalier::app {

struct EstimatorBenchArguments {
  tree::EstimatorBench bench;
  std::string docs;  // folder of estimators.md; empty: nothing is written
};

void add_estimator_options(CLI::App& command, EstimatorBenchArguments& arguments);

/// Runs it. Errors: ConfigError; StoreError when the page cannot be written.
nlohmann::json bench_estimators(const EstimatorBenchArguments& arguments);

/// Markdown: bias (confidence) and signal-to-noise, an estimator a row, a rule a column.
std::string estimator_table(const std::vector<tree::EstimatorFigures>& figures);

/// SVG: for each estimator the bias and the signal-to-noise, a mark a rule.
std::string estimator_plot(const std::vector<tree::EstimatorFigures>& figures);

}  // namespace espalier::app
