// Whole runs in miniature of the quickstart, and what equal ones have in common.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "app/process.h"
#include "common/files.h"

namespace espalier::test {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

inline std::vector<std::string> train(const fs::path& run_dir, std::vector<std::string> more) {
  std::vector<std::string> arguments = {
      "train",
      std::string(ESPALIER_SOURCE_DIR) + "/configs/quickstart.yaml",
      "run_dir=" + run_dir.string(),
      "name=mini",
      "sft.episodes=16",
      "sft.steps=4",
      "sft.batch_size=8",
      "eval.n=6",
      "data.train_batch_size=2",
      "rollout.n=3",
      "trainer.total_steps=3",
      "trainer.save_freq=1",
      "trainer.test_freq=2",
      "budget.limit=0",
      "learner.entropy_coeff=0.05"};  // a gradient also where no episode succeeds
  arguments.insert(arguments.end(), more.begin(), more.end());
  return espalier(std::move(arguments));
}

inline std::vector<json> metrics(const fs::path& run) {
  std::istringstream lines(common::read_file(run / "metrics.jsonl"));
  std::vector<json> records;
  for (std::string line; std::getline(lines, line);) records.push_back(json::parse(line));
  return records;
}

/// Metrics but for timings: what must be equal between equal runs.
inline std::vector<json> untimed(const fs::path& run) {
  std::vector<json> records = metrics(run);
  for (json& record : records) {
    for (const char* key :
         {"timing_s/gen", "timing_s/adv", "timing_s/update_actor", "timing_s/testing",
          "perf/time_per_step", "perf/throughput", "tree/fork_ms", "budget/sandbox_seconds"}) {
      record.erase(key);
    }
  }
  return records;
}

inline std::string newest_weights(const fs::path& run) {
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    newest = std::max(newest, entry.path());
  return common::read_file(newest / "model.safetensors");
}

inline void expect_equal_runs(const fs::path& a, const fs::path& b) {
  for (const auto& entry : fs::directory_iterator(a / "trees")) {
    const fs::path name = entry.path().filename();
    EXPECT_TRUE(common::read_file(entry.path()) == common::read_file(b / "trees" / name))
        << name << " differs";
  }
  EXPECT_EQ(untimed(a), untimed(b));
  EXPECT_TRUE(newest_weights(a) == newest_weights(b)) << "weights differ";
}

/// Starts a run, sends a signal once `marker` exists, waits for the end.
inline Finished interrupt(const fs::path& run_dir, const std::vector<std::string>& more,
                          const fs::path& marker, int signal) {
  Process process(train(run_dir, more), run_dir / "output", ESPALIER_SOURCE_DIR);
  for (int i = 0; i < 6000 && !fs::exists(marker) && process.running(); ++i)
    std::this_thread::sleep_for(10ms);
  process.signal(signal);
  return process.wait(60);
}

inline void expect_steps(const fs::path& run, size_t count) {
  const std::vector<json> records = metrics(run);
  ASSERT_EQ(records.size(), count);
  for (size_t i = 0; i < count; ++i) EXPECT_EQ(records[i]["step"], i);  // none repeated or missing
}

}  // namespace espalier::test
