#include "app/bench_store.h"

#include <algorithm>
#include <cstdio>

#include "common/files.h"
#include "common/stop.h"

namespace espalier::app {

nlohmann::json measure_store(tree::StoreBench bench) {
  const common::TempDir scratch("espalier-bench");
  if (bench.directory.empty()) bench.directory = scratch.path();
  bench.on_progress = [](const std::string& what) {
    std::fprintf(stderr, "bench store: %s\n", what.c_str());
    return !common::stop_requested();
  };
  tree::StoreFigures figures = tree::bench_store(bench);
  std::vector<double>& open = figures.open_tree_ms;
  std::sort(open.begin(), open.end());
  const size_t p95 = std::min(open.size() - 1, open.size() * 95 / 100);
  return {
      {"append_events_per_s", figures.append_events_per_s},
      {"flatness", figures.flatness},
      {"journal_bytes_ratio", figures.journal_bytes_ratio},
      {"store_bytes_ratio", figures.store_bytes_ratio},
      {"raw_bytes_per_turn", figures.raw_bytes_per_turn},
      {"verify_mb_per_s", figures.verify_mb_per_s},
      {"open_tree_ms", {{"median", open[open.size() / 2]}, {"p95", open[p95]}, {"n", open.size()}}},
      {"writer_peak_mb", figures.writer_peak_mb},
      {"n", bench.events},
      {"n_trees", bench.trees}};
}

}  // namespace espalier::app
