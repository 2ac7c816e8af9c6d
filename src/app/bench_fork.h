// espalier bench fork: what forking a live environment costs here, beside what people would do
// without it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace espalier::app {

struct ForkBench {
  int repetitions = 50;  // rounds of a figure; the dear ones take fewer
  int kept = 1000;       // forks kept while their memory is measured
  std::string engine_image = "localhost/espalier-host:latest";  // scripts/container_engine.sh
  std::vector<std::string> only;                                // parts to measure; empty: all
};

/// The parts' names, in the order in which they are measured.
const std::vector<std::string>& fork_bench_parts();

/// Every figure that could be had; one that could not is null, with the reason under NAME_why.
/// Progress goes to stderr; Ctrl-C leaves what is complete. Errors: Unsupported without sandboxes.
nlohmann::json bench_fork(const ForkBench& bench);

}  // namespace espalier::app
