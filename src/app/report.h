// `espalier report`: one self-contained HTML file about one or several runs.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <vector>

namespace espalier::app {

void add_report_command(CLI::App& app, int& exit_code);

/// Writes the report of `runs` (at least one run directory) to `output`, whole or not at all.
/// Damaged or missing parts of a run are noted in the report. Errors: ConfigError when a directory
/// holds no run; StoreError when the output cannot be written.
void write_report(const std::vector<std::filesystem::path>& runs,
                  const std::filesystem::path& output);

/// Writes the drawing of a run's most instructive tree as an SVG file of its own. Errors: as
/// write_report; ConfigError when the run has stored no tree.
void write_tree_picture(const std::filesystem::path& run, const std::filesystem::path& output);

}  // namespace espalier::app
