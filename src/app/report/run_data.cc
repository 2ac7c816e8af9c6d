#include "app/report/run_data.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>

#include "common/config.h"
#include "common/error.h"
#include "common/files.h"
#include "tree/store.h"

namespace espalier::app {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMostShards = 64;      // read for outcomes and trees, evenly spread over the run
constexpr int kComfortableLeaves = 16;  // a tree that fits a page
constexpr size_t kComfortableNodes = 64;

std::string read_if_there(const fs::path& file, RunData& run) {
  if (!fs::exists(file)) return {};
  try {
    return common::read_file(file);
  } catch (const common::StoreError& error) {
    run.notes.push_back(error.what());
    return {};
  }
}

void load_config_facts(RunData& run) {
  run.config_text = read_if_there(run.directory / "config.yaml", run);
  if (run.config_text.empty()) return;
  try {
    const auto config = common::parse_config(run.config_text, "config.yaml", {});
    run.name = config.name;
    run.seed = config.seed;
    run.planned_steps = static_cast<uint64_t>(std::max(0, config.trainer.total_steps));
  } catch (const common::Error&) {
    run.notes.push_back("config.yaml was written by another version: shown as text only.");
  }
}

void load_summary(RunData& run) {
  run.summary = json::object();
  const std::string text = read_if_there(run.directory / "summary.json", run);
  if (text.empty()) return;
  const json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) {
    run.notes.push_back("summary.json is not a JSON object: left out.");
    return;
  }
  run.summary = parsed;
  if (parsed.contains("name") && parsed["name"].is_string()) run.name = parsed["name"];
  if (parsed.contains("version") && parsed["version"].is_string()) run.version = parsed["version"];
  if (parsed.contains("seed") && parsed["seed"].is_number_unsigned()) run.seed = parsed["seed"];
}

bool add_row(const std::string& line, std::map<uint64_t, MetricRow>& rows) {
  const json parsed = json::parse(line, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("step") || !parsed["step"].is_number_unsigned())
    return false;
  MetricRow& row = rows[parsed["step"].get<uint64_t>()];
  for (const auto& [key, value] : parsed.items())
    if (key != "step" && value.is_number() && std::isfinite(value.get<double>()))
      row.values[key] = value.get<double>();
  return true;
}

void load_metrics(RunData& run) {
  std::ifstream file(run.directory / "metrics.jsonl");
  std::map<uint64_t, MetricRow> rows;
  size_t unreadable = 0;
  for (std::string line; std::getline(file, line);)
    if (!line.empty() && !add_row(line, rows)) ++unreadable;
  if (unreadable > 0)
    run.notes.push_back("metrics.jsonl: " + std::to_string(unreadable) +
                        " unreadable line(s) left out.");
  double tokens = 0;
  for (auto& [step, row] : rows) {
    const auto found = row.values.find("budget/generated_tokens");
    if (found != row.values.end()) tokens = found->second;
    row.step = step;
    row.generated_tokens = tokens;
    run.rows.push_back(std::move(row));
  }
}

struct Candidate {
  double score = 0;
  double place = 0;  // 0: first shard, 1: last
  tree::Tree tree;
};

/// Best tree of each of the first, middle and last parts of the run, of different families if
/// possible.
void choose_trees(std::vector<Candidate> candidates, RunData& run) {
  struct Part {
    const char* caption;
    double from, to;
  };
  static constexpr Part kParts[] = {
      {"early", 0, 0.34}, {"midway", 0.34, 0.67}, {"late", 0.67, 1.01}};
  std::set<std::string> seen;
  for (const Part& part : kParts) {
    Candidate* best = nullptr;
    double best_score = 0;
    for (Candidate& candidate : candidates) {
      if (candidate.place < part.from || candidate.place >= part.to) continue;
      const double score = candidate.score * (seen.count(candidate.tree.family) ? 0.5 : 1.0);
      if (score > best_score) best = &candidate, best_score = score;
    }
    if (!best) continue;
    seen.insert(best->tree.family);
    run.trees.push_back({part.caption, std::move(best->tree)});
    best->score = 0;
  }
}

/// Counts a shard's outcomes and keeps its best tree of every family.
void scan_shard(const fs::path& shard, double place, RunData& run,
                std::vector<Candidate>& candidates) {
  std::map<std::string, Candidate> best;
  for (tree::Tree& tree : tree::read_trees(shard)) {
    for (int leaf : tree.leaves()) ++run.outcomes[tree::to_string(tree.nodes[leaf].outcome)];
    const double score = tree_interest(tree);
    Candidate& kept = best[tree.family];
    if (score > kept.score) kept = {score, place, std::move(tree)};
  }
  ++run.shards_read;
  for (auto& [family, candidate] : best)
    if (candidate.score > 0) candidates.push_back(std::move(candidate));
}

void load_trees(RunData& run) {
  const std::vector<fs::path> shards = tree::list_shards(run.directory);
  run.shards = shards.size();
  const size_t wanted = std::min(shards.size(), kMostShards);
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < wanted; ++i) {
    const size_t steps = std::max<size_t>(1, wanted - 1);
    try {
      scan_shard(shards[i * (shards.size() - 1) / steps],
                 static_cast<double>(i) / static_cast<double>(steps), run, candidates);
    } catch (const common::StoreError& error) {
      run.notes.push_back(error.what());
    }
  }
  choose_trees(std::move(candidates), run);
}

bool mixed(const std::vector<int>& nodes, const std::vector<std::set<double>>& rewards) {
  std::set<double> all;
  for (int node : nodes) all.insert(rewards[node].begin(), rewards[node].end());
  return all.size() > 1;
}

}  // namespace

std::optional<double> number_at(const json& object, std::initializer_list<const char*> path) {
  const json* at = &object;
  for (const char* key : path) {
    if (!at->is_object() || !at->contains(key)) return std::nullopt;
    at = &(*at)[key];
  }
  if (!at->is_number() || !std::isfinite(at->get<double>())) return std::nullopt;
  return at->get<double>();
}

double tree_interest(const tree::Tree& tree) {
  if (tree.nodes.empty()) return 0;
  const auto children = tree.children();
  std::vector<std::set<double>> rewards(tree.nodes.size());
  std::set<std::string> commands;
  for (int i = static_cast<int>(tree.nodes.size()) - 1; i >= 0; --i) {
    const tree::Node& node = tree.nodes[i];
    if (node.reward) rewards[i].insert(*node.reward);
    if (node.parent >= 0) rewards[node.parent].insert(rewards[i].begin(), rewards[i].end());
    commands.insert(node.command);
  }
  double score = 0.1 + 0.05 * std::min<size_t>(commands.size(), 20);
  for (const auto& below : children) {
    if (below.size() < 2) continue;
    score += mixed(below, rewards) ? 2.0 : 0.5;
  }
  if (mixed(tree.roots(), rewards)) score += 1.5;
  const double leaves = static_cast<double>(tree.leaves().size());
  score *= std::min(1.0, kComfortableLeaves / leaves);
  score *= std::min(1.0, double(kComfortableNodes) / static_cast<double>(tree.nodes.size()));
  return score;
}

RunData load_run(const fs::path& directory) {
  if (!fs::is_directory(directory))
    throw common::ConfigError("report: no run directory at '" + directory.string() + "'");
  RunData run;
  run.directory = directory;
  run.name = fs::absolute(directory).lexically_normal().filename().string();
  if (run.name.empty())
    run.name = fs::absolute(directory).lexically_normal().parent_path().filename().string();
  load_config_facts(run);
  load_summary(run);
  load_metrics(run);
  load_trees(run);
  if (run.rows.empty() && run.shards == 0 && !run.finished())
    throw common::ConfigError("report: '" + directory.string() +
                              "' holds none of metrics.jsonl, summary.json, trees/*.h5");
  return run;
}

}  // namespace espalier::app
