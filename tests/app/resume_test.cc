// Runs that are killed and gone on with: bit for bit what one never interrupted gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "app/mini_run.h"

namespace espalier {
namespace {

using namespace test;
using ::testing::HasSubstr;

/// What a kill waits for, since the process was started.
enum class Moment { rolling_out, sealing, training, checkpointing, any };

/// Sizes of a directory's files, or when it was last changed.
uintmax_t bytes_in(const fs::path& directory) {
  uintmax_t sum = 0;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    if (it->is_regular_file(error)) sum += it->file_size(error);
  return sum;
}
fs::file_time_type changed(const fs::path& directory) {
  std::error_code error;
  return fs::last_write_time(directory, error);
}

/// Goes on with the run and kills it at the moment. False: it ended before.
bool kill_at(const fs::path& run_dir, const std::vector<std::string>& more, Moment moment,
             std::chrono::microseconds later) {
  const fs::path run = run_dir / "mini";
  const uintmax_t journal = bytes_in(run / "journal");
  const auto trees = changed(run / "trees"), checkpoints = changed(run / "checkpoints");
  const auto come = [&] {
    switch (moment) {
      case Moment::rolling_out:
        return bytes_in(run / "journal") > journal + 4000;
      case Moment::sealing:
      case Moment::training:
        return changed(run / "trees") != trees;
      case Moment::checkpointing:
        return changed(run / "checkpoints") != checkpoints;
      case Moment::any:
        break;
    }
    return true;
  };
  Process process(train(run_dir, more), run_dir / "output", ESPALIER_SOURCE_DIR);
  while (process.running() && !come()) std::this_thread::sleep_for(200us);
  if (moment != Moment::sealing) std::this_thread::sleep_for(later);
  const bool alive = process.running();
  process.signal(SIGKILL);
  process.wait(60);
  return alive;
}

TEST(Resume, TwentyKillsAtRandomMomentsLeaveNoTrace) {
  constexpr int kKills = 20;
  const std::vector<std::string> options = {
      "deterministic=true",  "seed=11",           "trainer.total_steps=12", "eval.n=2",
      "trainer.test_freq=5", "eval.greedy=false", "trainer.keep_last=2"};
  const common::TempDir whole, killed;
  ASSERT_EQ(test::run(train(whole.path(), options)).exit_code, 0);
  std::vector<std::string> resumed = options;
  std::mt19937 random(5);
  std::map<Moment, int> kills;
  for (int i = 0, made = 0; made < kKills; ++i) {
    ASSERT_LT(i, 3 * kKills) << "the run ended before it was killed often enough";
    // In a start of the run that has nothing yet, and then at each kind of moment in turn.
    const auto moment = i == 0 ? Moment::rolling_out : static_cast<Moment>(i % 5);
    const int most_us = moment == Moment::any ? 600'000 : 15'000;
    const auto later =
        std::chrono::microseconds(std::uniform_int_distribution<int>(0, most_us)(random));
    if (!kill_at(killed.path(), resumed, moment, later)) continue;
    ++made;
    ++kills[moment];
    if (fs::exists(killed.path() / "mini/config.yaml")) {
      resumed = options;
      resumed.emplace_back("--resume");
    }
  }
  EXPECT_EQ(kills.size(), 5u) << "of each kind";
  const Finished done = test::run(train(killed.path(), resumed));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_FALSE(fs::exists(killed.path() / "mini-2"));
  expect_equal_runs(whole.path() / "mini", killed.path() / "mini");
  expect_steps(killed.path() / "mini", 13);
}

TEST(Resume, ADamagedNewestCheckpointFallsBackToTheOneBeforeAndSaysSo) {
  const std::vector<std::string> options = {"deterministic=true", "seed=12", "eval.n=0"};
  const common::TempDir whole, damaged;
  ASSERT_EQ(test::run(train(whole.path(), options)).exit_code, 0);
  std::vector<std::string> shorter = options;
  shorter.emplace_back("trainer.total_steps=2");
  ASSERT_EQ(test::run(train(damaged.path(), shorter)).exit_code, 0);
  const fs::path weights = damaged.path() / "mini/checkpoints/step_000002/model.safetensors";
  std::string bytes = common::read_file(weights);
  bytes[bytes.size() / 2] ^= 1;  // its size is as it was
  common::write_file_atomically(weights, bytes);
  std::vector<std::string> resumed = options;
  resumed.emplace_back("--resume");
  const Finished done = test::run(train(damaged.path(), resumed));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("step_000002 is damaged"));
  EXPECT_THAT(done.output, HasSubstr("model.safetensors"));
  EXPECT_THAT(done.output, HasSubstr("Resuming after step 1"));
  expect_equal_runs(whole.path() / "mini", damaged.path() / "mini");
  expect_steps(damaged.path() / "mini", 4);
}

TEST(Resume, KeepsTheNewestAndTheBestCheckpoints) {
  const common::TempDir scratch;
  const Finished done = test::run(
      train(scratch.path(), {"trainer.total_steps=5", "trainer.test_freq=1", "trainer.save_freq=0",
                             "trainer.keep_last=1", "trainer.keep_best=2", "eval.n=8"}));
  ASSERT_EQ(done.exit_code, 0) << done.output;
  const fs::path run = scratch.path() / "mini";
  std::set<std::string> expected = {"step_000000", "step_000005"}, seen;
  std::vector<std::pair<double, uint64_t>> by_success;
  for (const json& record : metrics(run))
    if (record["step"] > 0) by_success.emplace_back(record["val/success/mean"], record["step"]);
  std::sort(by_success.rbegin(), by_success.rend());
  for (size_t i = 0; i < 2; ++i)
    expected.insert("step_00000" + std::to_string(by_success.at(i).second));
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    seen.insert(entry.path().filename());
  EXPECT_EQ(seen, expected);
}

}  // namespace
}  // namespace espalier
