#include "app/checkpoint.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <vector>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/files.h"
#include "policy/model_io.h"

namespace espalier::app {

namespace fs = std::filesystem;

namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kTemporary = ".tmp";

std::vector<fs::path> list_checkpoints(const RunDirectory& run) {
  std::vector<fs::path> found;
  if (!fs::is_directory(run.checkpoints())) return found;
  for (const auto& entry : fs::directory_iterator(run.checkpoints())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step_") && name.find('.') == std::string::npos)
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Of every file below the directory but the state itself.
nlohmann::json checksums(const fs::path& directory) {
  nlohmann::json sums = nlohmann::json::object();
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const std::string name = entry.path().lexically_relative(directory).string();
    if (!entry.is_regular_file() || name == kStateFile) continue;
    const std::string content = common::read_file(entry.path());
    sums[name] = {{"bytes", content.size()}, {"crc32c", common::crc32c(content)}};
  }
  return sums;
}

void check_files(const fs::path& directory, const nlohmann::json& written) {
  const nlohmann::json seen = checksums(directory);
  for (const auto& [name, file] : written.items()) {
    if (!seen.contains(name))
      throw common::StoreError(
          fmt::format("checkpoint file '{}' is missing", (directory / name).string()));
    if (seen[name] != file)
      throw common::StoreError(fmt::format("checkpoint file '{}' is {}, written was {}",
                                           (directory / name).string(), seen[name].dump(),
                                           file.dump()));
  }
}

/// Puts a directory in the place of another, so that at any instant one of them is there.
void replace_directory(const fs::path& fresh, const fs::path& target) {
  std::error_code error;
  if (fs::exists(target) &&
      ::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(fresh, error);
    return;
  }
  fs::remove_all(target, error);  // a file system that cannot exchange
  fs::rename(fresh, target, error);
  if (error)
    throw common::StoreError(
        fmt::format("put checkpoint '{}' in place: {}", target.string(), error.message()));
}

std::optional<double> success_of(const fs::path& checkpoint) {
  try {
    const auto json = nlohmann::json::parse(common::read_file(checkpoint / kStateFile));
    return json.at("success").get<double>();
  } catch (const std::exception&) {  // not evaluated, or damaged
    return std::nullopt;
  }
}

void drop_others(const RunDirectory& run, const CheckpointsKept& kept) {
  std::vector<fs::path> all = list_checkpoints(run);
  std::erase(all, checkpoint_path(run, 0));
  const size_t last = std::min(all.size(), static_cast<size_t>(std::max(kept.last, 1)));
  std::set<fs::path> keep(all.end() - static_cast<std::ptrdiff_t>(last), all.end());
  std::vector<std::pair<double, fs::path>> best;
  if (kept.best > 0)
    for (const fs::path& checkpoint : all)
      if (const auto success = success_of(checkpoint)) best.emplace_back(*success, checkpoint);
  std::sort(best.rbegin(), best.rend());
  for (size_t i = 0; i < best.size() && i < static_cast<size_t>(kept.best); ++i)
    keep.insert(best[i].second);
  for (const fs::path& checkpoint : all) {
    if (keep.contains(checkpoint)) continue;
    const fs::path going =
        checkpoint.string() + kTemporary;  // never half a checkpoint in its place
    fs::rename(checkpoint, going);
    fs::remove_all(going);
  }
}

RunState load_state(const fs::path& directory) {
  const fs::path file = directory / kStateFile;
  try {
    const nlohmann::json json = nlohmann::json::parse(common::read_file(file));
    RunState state;
    state.step = json.at("step").get<uint64_t>();
    state.ledger = json.at("ledger").get<std::string>();
    state.fork_rule = json.at("fork_rule").get<std::string>();
    state.eval_before = json.at("eval_before");
    state.eval_after = json.at("eval_after");
    state.wall_s = json.at("wall_s");
    state.begun = json.at("begun").get<bool>();
    if (const auto journal = json.find("journal"); journal != json.end())
      state.journal = {journal->at("file").get<uint32_t>(), journal->at("offset").get<uint64_t>()};
    state.unlogged = json.at("unlogged").get<common::Metrics>();
    if (const auto& success = json.at("success"); !success.is_null())
      state.success = success.get<double>();
    state.budget_spent = json.at("budget_spent").get<std::string>();
    state.bad_steps = json.at("bad_steps").get<int>();
    state.bad_in_a_row = json.at("bad_in_a_row").get<int>();
    check_files(directory, json.at("files"));
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw common::StoreError(
        fmt::format("cannot read checkpoint state '{}': {}", file.string(), error.what()));
  }
}

}  // namespace

nlohmann::json RunState::to_json() const {
  common::Metrics finite = unlogged;  // JSON has no other numbers
  std::erase_if(finite, [](const auto& metric) { return !std::isfinite(metric.second); });
  return {{"step", step},
          {"ledger", ledger},
          {"fork_rule", fork_rule},
          {"eval_before", eval_before},
          {"eval_after", eval_after},
          {"wall_s", wall_s},
          {"journal", {{"file", journal.file}, {"offset", journal.offset}}},
          {"begun", begun},
          {"success", success ? nlohmann::json(*success) : nlohmann::json()},
          {"budget_spent", budget_spent},
          {"bad_steps", bad_steps},
          {"bad_in_a_row", bad_in_a_row},
          {"unlogged", finite}};
}

fs::path checkpoint_path(const RunDirectory& run, uint64_t step) {
  return run.checkpoints() / fmt::format("step_{:06}", step);
}

CheckpointWriter::CheckpointWriter(RunDirectory run, CheckpointsKept kept)
    : run_(std::move(run)), kept_(kept) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_.checkpoints(), error))
    if (entry.path().extension() == kTemporary) fs::remove_all(entry.path(), error);
}

CheckpointWriter::~CheckpointWriter() {
  try {
    wait();
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
  }
}

void CheckpointWriter::save(CheckpointContent content) {
  wait();
  writing_ = std::async(std::launch::async,
                        [this, content = std::move(content)] { return write(content); });
}

void CheckpointWriter::wait() {
  if (writing_.valid()) writing_.get();
}

void CheckpointWriter::write(const CheckpointContent& content) const {
  const fs::path target = checkpoint_path(run_, content.state.step);
  const fs::path temporary = target.string() + kTemporary;
  fs::remove_all(temporary);
  fs::create_directories(temporary);
  policy::save_model(temporary, content.weights);
  content.optimizer(temporary);
  common::write_file_atomically(temporary / "tokenizer.json", content.tokenizer->to_json());
  // The state is written last: a directory that has it was whole.
  nlohmann::json json = content.state.to_json();
  json["files"] = checksums(temporary);
  common::write_file_atomically(temporary / kStateFile, json.dump(2) + "\n");
  replace_directory(temporary, target);
  drop_others(run_, kept_);
  spdlog::info("checkpoint after step {}", content.state.step);
}

Checkpoint checkpoint_at(const RunDirectory& run, uint64_t step) {
  const fs::path path = checkpoint_path(run, step);
  if (fs::is_directory(path)) return {path, load_state(path), load_start(path)};
  std::string there;
  for (const fs::path& one : list_checkpoints(run))
    there += (there.empty() ? "" : ", ") + one.filename().string();
  throw common::ConfigError(fmt::format("no checkpoint '{}'; there are: {}", path.string(),
                                        there.empty() ? "none" : there));
}

fs::path newest_checkpoint_path(const RunDirectory& run) {
  const std::vector<fs::path> all = list_checkpoints(run);
  return all.empty() ? fs::path() : all.back();
}

std::optional<Checkpoint> newest_checkpoint(const RunDirectory& run) {
  std::vector<fs::path> all = list_checkpoints(run);
  for (auto path = all.rbegin(); path != all.rend(); ++path) {
    try {
      return Checkpoint{*path, load_state(*path), load_start(*path)};
    } catch (const common::Error& error) {
      spdlog::warn("checkpoint {} is damaged ({}); trying the one before", path->string(),
                   error.what());
    }
  }
  return std::nullopt;
}

}  // namespace espalier::app
