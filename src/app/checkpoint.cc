#include "app/checkpoint.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "common/error.h"
#include "common/files.h"
#include "policy/model_io.h"

namespace espalier::app {

namespace fs = std::filesystem;

namespace {

constexpr const char* kStateFile = "state.json";

fs::path checkpoint_path(const RunDirectory& run, uint64_t step) {
  return run.checkpoints() / fmt::format("step_{:06}", step);
}

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

uintmax_t size_of(const fs::path& file) {
  std::error_code error;
  const uintmax_t size = fs::file_size(file, error);
  return error ? 0 : size;
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
    for (const auto& [name, size] : json.at("files").items()) {
      const uintmax_t expected = size.get<uintmax_t>(), seen = size_of(directory / name);
      if (seen != expected)
        throw common::StoreError(fmt::format("checkpoint file '{}' has {} bytes, written were {}",
                                             (directory / name).string(), seen, expected));
    }
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
          {"unlogged", finite}};
}

void save_checkpoint(const RunDirectory& run, const RunState& state,
                     const learner::Learner& learner, const policy::TokenizerPtr& tokenizer,
                     int keep_last) {
  const fs::path target = checkpoint_path(run, state.step);
  const fs::path temporary = target.string() + ".tmp";
  fs::remove_all(temporary);
  fs::create_directories(temporary);
  policy::save_model(temporary, learner.weights());
  learner.save_optimizer(temporary);
  common::write_file_atomically(temporary / "tokenizer.json", tokenizer->to_json());
  // The state is written last: a directory that has it was whole.
  nlohmann::json json = state.to_json();
  for (const auto& entry : fs::directory_iterator(temporary))
    json["files"][entry.path().filename().string()] = entry.file_size();
  common::write_file_atomically(temporary / kStateFile, json.dump(2) + "\n");
  replace_directory(temporary, target);

  std::vector<fs::path> all = list_checkpoints(run);
  std::erase(all, checkpoint_path(run, 0));
  const size_t keep = static_cast<size_t>(std::max(keep_last, 1));
  for (size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i]);
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
