#include "app/report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <memory>

#include "app/report/page.h"
#include "app/report/run_data.h"
#include "app/report/tree_view.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier::app {

namespace fs = std::filesystem;

void write_report(const std::vector<fs::path>& runs, const fs::path& output) {
  if (runs.empty()) throw common::ConfigError("report: no run directory given");
  std::vector<RunData> data;
  for (const fs::path& run : runs) data.push_back(load_run(run));
  common::write_file_atomically(output, report_page(data));
}

void write_tree_picture(const fs::path& run, const fs::path& output) {
  const RunData data = load_run(run);
  if (data.trees.empty())
    throw common::ConfigError("report: '" + run.string() + "' has stored no tree to draw");
  const auto best = std::max_element(data.trees.begin(), data.trees.end(),
                                     [](const ChosenTree& a, const ChosenTree& b) {
                                       return tree_interest(a.tree) < tree_interest(b.tree);
                                     });
  common::write_file_atomically(output, tree_svg(best->tree, {"", true}));
}

void add_report_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::vector<std::string> runs;
    std::string output, picture;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "Write one self-contained HTML file about runs");
  command->add_option("RUN", options->runs, "Run directories; several are overlaid and compared")
      ->required();
  command->add_option("-o,--output", options->output,
                      "HTML file (default: RUN/report.html; report.html here for several runs)");
  command->add_option("--tree-svg", options->picture,
                      "Also draw the first run's most instructive tree into this SVG file");
  command->callback([options, &exit_code] {
    const std::vector<fs::path> runs(options->runs.begin(), options->runs.end());
    fs::path output = options->output;
    if (output.empty())
      output = runs.size() == 1 ? runs.front() / "report.html" : fs::path("report.html");
    write_report(runs, output);
    fmt::print("Report: {}\n", output.string());
    if (!options->picture.empty()) {
      write_tree_picture(runs.front(), options->picture);
      fmt::print("Tree: {}\n", options->picture);
    }
    exit_code = common::kExitOk;
  });
}

}  // namespace espalier::app
