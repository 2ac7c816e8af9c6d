#include "app/checkpoint.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
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

RunState load_state(const fs::path& directory) {
  const fs::path file = directory / kStateFile;
  try {
    const nlohmann::json json = nlohmann::json::parse(common::read_file(file));
    RunState state;
    state.step = json.at("step").get<uint64_t>();
    state.ledger = json.at("ledger").get<std::string>();
    state.fork_rule = json.at("fork_rule").get<std::string>();
    state.eval_before = json.at("eval_before");
    state.wall_s = json.at("wall_s");
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw common::StoreError(
        fmt::format("cannot read checkpoint state '{}': {}", file.string(), error.what()));
  }
}

}  // namespace

nlohmann::json RunState::to_json() const {
  return {{"step", step},
          {"ledger", ledger},
          {"fork_rule", fork_rule},
          {"eval_before", eval_before},
          {"wall_s", wall_s}};
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
  // The state is written last: a directory that has it is whole.
  common::write_file_atomically(temporary / kStateFile, state.to_json().dump(2) + "\n");
  fs::remove_all(target);
  fs::rename(temporary, target);

  std::vector<fs::path> all = list_checkpoints(run);
  std::erase(all, checkpoint_path(run, 0));
  const size_t keep = static_cast<size_t>(std::max(keep_last, 1));
  for (size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i]);
}

std::optional<Checkpoint> newest_checkpoint(const RunDirectory& run) {
  std::vector<fs::path> all = list_checkpoints(run);
  for (auto path = all.rbegin(); path != all.rend(); ++path) {
    try {
      Checkpoint checkpoint{*path, load_state(*path)};
      policy::load_model(*path);
      return checkpoint;
    } catch (const common::Error& error) {
      spdlog::warn("checkpoint {} is damaged ({}); trying the one before", path->string(),
                   error.what());
    }
  }
  return std::nullopt;
}

}  // namespace espalier::app
