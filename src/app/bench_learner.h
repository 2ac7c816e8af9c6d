// `espalier bench learner`: packed trees against linearised paths, and unbranched ones against a
// plain dense step.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "learner/bench.h"

namespace espalier::app {

struct LearnerBenchArguments {
  learner::LearnerBench bench;
  int hidden_size = 192, layers = 3, heads = 3, intermediate_size = 576;
  int threads = 1;
  bool one_shape = false;  // only the shape given, not the others beside it
};

void add_learner_options(CLI::App& command, LearnerBenchArguments& arguments);

/// token_ratio, speedup, share_of_bound, tokens_per_s, peak_bytes, mfu, unbranched, and the same of
/// further shapes of trees.
nlohmann::json bench_learner(const LearnerBenchArguments& arguments);

}  // namespace espalier::app
