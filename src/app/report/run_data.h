// What a run directory holds, read for the report; whatever is missing or damaged becomes a note.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::app {

struct MetricRow {
  uint64_t step = 0;
  double generated_tokens = 0;           // cumulative; carried forward where a line has none
  std::map<std::string, double> values;  // finite ones
};

struct ChosenTree {
  std::string caption;  // why this one: "early", "late"
  tree::Tree tree;
};

struct RunData {
  std::filesystem::path directory;
  std::string name, version;  // version empty: unknown
  std::optional<uint64_t> seed;
  uint64_t planned_steps = 0;  // 0: unknown
  std::string config_text;
  nlohmann::json summary;                    // an object; empty for an unfinished run
  std::vector<MetricRow> rows;               // by step, one a step
  std::map<std::string, uint64_t> outcomes;  // leaves of the shards read
  size_t shards = 0, shards_read = 0;
  std::vector<ChosenTree> trees;
  std::vector<std::string> notes;  // what could not be read, for the reader of the report

  bool finished() const { return !summary.empty(); }
};

/// Errors: ConfigError when the directory is missing or holds nothing of a run.
RunData load_run(const std::filesystem::path& directory);

/// Number at a path of keys ("eval", "before", "mean") of a JSON object; nullopt: none there.
std::optional<double> number_at(const nlohmann::json& object,
                                std::initializer_list<const char*> path);

/// How instructive a tree is to look at: forks whose branches earned differently count most, then
/// roots that differ and different commands; trees too large for a page count less. 0: nothing to
/// see.
double tree_interest(const tree::Tree& tree);

}  // namespace espalier::app
