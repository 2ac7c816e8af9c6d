// The commands about sandboxes themselves: bench fork, bench soak, env clean.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/process.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier {
namespace {

using test::Finished;
using ::testing::HasSubstr;

/// Progress goes to the same place as the figures here.
nlohmann::json json_in(const std::string& output) {
  const size_t begin = output.find('{'), end = output.rfind('}');
  if (begin == std::string::npos || end == std::string::npos) return nullptr;
  return nlohmann::json::parse(output.substr(begin, end + 1 - begin), nullptr, false);
}

TEST(BenchFork, HasEveryFigureOrSaysWhyNot) {
  const Finished bench =
      test::run(test::espalier({"bench", "fork", "-n", "5", "--kept", "4", "--json", "--only",
                                "clean,cold,commands,memory,python,engine"}));
  if (bench.exit_code == common::kExitUnsupported) GTEST_SKIP() << bench.output;
  ASSERT_EQ(bench.exit_code, 0) << bench.output;
  const nlohmann::json figures = json_in(bench.output);
  ASSERT_TRUE(figures.is_object()) << bench.output;
  for (const char* name : {"fork_ms", "cold_start_ms", "reexecute_ms"}) {
    ASSERT_TRUE(figures.contains(name)) << name;
    EXPECT_GT(figures[name]["median"].get<double>(), 0) << name;
    EXPECT_GE(figures[name]["p95"].get<double>(), figures[name]["median"].get<double>()) << name;
  }
  EXPECT_GT(figures["command_round_trip_ms"]["builtin"]["median"].get<double>(), 0);
  EXPECT_GT(figures["command_round_trip_ms"]["bin_true"]["median"].get<double>(), 0);
  for (const char* name : {"live_fork_ms", "python_1gb_fork_ms", "engine_commit_run_exec_ms"}) {
    ASSERT_TRUE(figures.contains(name)) << name;
    EXPECT_TRUE(!figures[name].is_null() || figures.contains(std::string(name) + "_why")) << name;
  }
  EXPECT_EQ(figures["kept_forks"], 4);
  EXPECT_FALSE(figures["kinds"].empty());
  EXPECT_TRUE(figures["machine"].contains("kernel"));
  EXPECT_TRUE(figures["versions"].contains("torch"));
  EXPECT_THAT(figures["command_line"].get<std::string>(), HasSubstr("bench fork -n 5"));
}

TEST(BenchSoak, NothingIsLeftAfterManyForksAndStarts) {
  const Finished soak =
      test::run(test::espalier({"bench", "soak", "--forks", "60", "--starts", "30", "--json"}));
  if (soak.exit_code == common::kExitUnsupported) GTEST_SKIP() << soak.output;
  EXPECT_EQ(soak.exit_code, 0) << soak.output;
  const nlohmann::json figures = json_in(soak.output);
  ASSERT_TRUE(figures.is_object()) << soak.output;
  EXPECT_TRUE(figures["leaks"].empty()) << figures["leaks"].dump();
  EXPECT_EQ(figures["before"]["processes"], figures["after"]["processes"]);
}

TEST(EnvClean, RemovesWhatAKilledProcessLeft) {
  namespace fs = std::filesystem;
  // A place of its own: every start of a sandbox backend sweeps the common one, other tests' too.
  const common::TempDir place("clean-place");
  ASSERT_EQ(setenv("TMPDIR", place.path().c_str(), 1), 0);
  int tell[2];
  ASSERT_EQ(pipe(tell), 0);
  const pid_t child = fork();
  if (child == 0) {
    const common::TempDir left("espalier-clean-test");
    common::write_file_atomically(left.path() / "file", "text");
    (void)!write(tell[1], left.path().c_str(), left.path().string().size());
    for (;;) pause();
  }
  char buffer[256];
  const ssize_t size = read(tell[0], buffer, sizeof buffer);
  ASSERT_GT(size, 0);
  close(tell[0]);
  close(tell[1]);
  const fs::path left(std::string(buffer, static_cast<size_t>(size)));
  const common::TempDir mine("espalier-clean-test");

  Finished clean = test::run(test::espalier({"env", "clean"}));
  EXPECT_EQ(clean.exit_code, 0) << clean.output;
  EXPECT_TRUE(fs::exists(left)) << "its owner lives";
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  clean = test::run(test::espalier({"env", "clean", "--dry-run"}));
  EXPECT_EQ(clean.exit_code, 0);
  EXPECT_THAT(clean.output, HasSubstr(left.string()));
  EXPECT_TRUE(fs::exists(left)) << "only listed";
  clean = test::run(test::espalier({"env", "clean"}));
  EXPECT_EQ(clean.exit_code, 0);
  EXPECT_THAT(clean.output, HasSubstr(left.string()));
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(mine.path()));
  unsetenv("TMPDIR");
}

}  // namespace
}  // namespace espalier
