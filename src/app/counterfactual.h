// espalier trace replay with an edit: what would have come of something else.
//
// Each is kept in RUN/counterfactuals/NNNN, a run directory of its own with one tree: the recorded
// turns up to the node, and the branch that goes on from there. Nothing else of the run is touched.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tree/trace_json.h"
#include "tree/trace_text.h"
#include "tree/trace_tree.h"

namespace espalier::app {

struct CounterfactualArguments {
  std::filesystem::path run;
  std::string node;
  std::string action;            // the next command; empty: the policy's own
  std::filesystem::path policy;  // checkpoint that goes on; empty: the run's newest
  std::filesystem::path prompt;  // file with another instruction; empty: the task's
};

struct Counterfactual {
  std::filesystem::path directory;
  tree::RunTree tree;
  int node = -1;  // in `tree`: goes on from here; -1: the prompt
  std::filesystem::path checkpoint;
  std::string opened;    // how the environment was opened
  size_t run_again = 0;  // commands before the node that no snapshot spared
  size_t saved_turns = 0, saved_tokens = 0;
  std::optional<double> saved_s;  // that the recorded turns took; none: no journal tells
  double spent_s = 0;
  std::optional<double> recorded_reward;  // mean below the node in the run
};

/// Opens the environment as it was at the node, makes the change, lets the policy finish, verifies
/// and records. Errors: ConfigError, PolicyError, StoreError, SandboxError.
Counterfactual run_counterfactual(const CounterfactualArguments& arguments);

tree::Json to_json(const Counterfactual& result);
std::string to_text(const Counterfactual& result, const tree::TextOptions& options);

/// Adds the counterfactual branches of `run` to those of `trees` that they branch from; branches
/// under another prompt are left out. Errors: StoreError.
void join_counterfactuals(const std::filesystem::path& run, std::vector<tree::Tree>& trees);

/// RUN/counterfactuals/NNNN in order.
std::vector<std::filesystem::path> list_counterfactuals(const std::filesystem::path& run);

}  // namespace espalier::app
