// What a user meets at the command line: help, versions, errors before any work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "app/process.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier {
namespace {

using test::Finished;
using test::run;
using ::testing::HasSubstr;

const std::string kConfigs = std::string(ESPALIER_SOURCE_DIR) + "/configs";
const std::string kQuickstart = kConfigs + "/quickstart.yaml";

Finished espalier(std::vector<std::string> arguments) {
  return run(test::espalier(std::move(arguments)));
}

TEST(CommandLine, HelpAndVersion) {
  const Finished help = espalier({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* command :
       {"train", "sft", "rollout", "eval", "env", "trace", "report", "bench", "doctor"}) {
    EXPECT_THAT(help.output, HasSubstr(command));
  }
  EXPECT_THAT(espalier({"--version"}).output, HasSubstr("espalier "));
  EXPECT_EQ(espalier({}).exit_code, common::kExitUsage);
  EXPECT_EQ(espalier({"prune"}).exit_code, common::kExitUsage);
}

TEST(CommandLine, HelpConfigDocumentsKeys) {
  const Finished help = espalier({"help", "config"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* key :
       {"rollout.n", "learner.optim.lr", "algorithm.adv_estimator", "budget.unit"}) {
    EXPECT_THAT(help.output, HasSubstr(key));
  }
}

TEST(CommandLine, DryRunPrintsConfigurationAndPlanAndMakesNothing) {
  const common::TempDir scratch;
  const Finished plan = espalier(
      {"train", kQuickstart, "--dry-run", "seed=77", "run_dir=" + scratch.path().string()});
  EXPECT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("seed: 77"));
  EXPECT_THAT(plan.output, HasSubstr("# Plan"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(CommandLine, WrongInputsLeaveNoRunDirectoryBehind) {
  const common::TempDir scratch;
  const std::string run_dir = "run_dir=" + (scratch.path() / "runs").string();
  for (const char* wrong : {"data.families=[orchard]", "model.path=/no/such/model",
                            "data.trees=/no/such/run", "budget.unit=apples"}) {
    const Finished refused = espalier({"train", kQuickstart, run_dir, wrong});
    EXPECT_NE(refused.exit_code, 0) << wrong;
    EXPECT_THAT(refused.output, HasSubstr(std::string(wrong).substr(0, 4))) << wrong;
    EXPECT_TRUE(std::filesystem::is_empty(scratch.path())) << wrong;
  }
}

struct BadInput {
  const char* name;
  std::vector<std::string> arguments;
  int exit_code;
  std::vector<std::string> says;
};

class BadInputs : public ::testing::TestWithParam<BadInput> {};

TEST_P(BadInputs, IsRefusedBeforeAnyWork) {
  const Finished refused = espalier(GetParam().arguments);
  EXPECT_EQ(refused.exit_code, GetParam().exit_code) << refused.output;
  for (const std::string& part : GetParam().says) EXPECT_THAT(refused.output, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    CommandLine, BadInputs,
    ::testing::Values(
        BadInput{"UnknownKey",
                 {"train", kQuickstart, "learner.optim.learning_rate=1"},
                 2,
                 {"learner.optim.learning_rate", "learner.optim.lr"}},
        BadInput{"WrongType", {"train", kQuickstart, "rollout.n=many"}, 2, {"rollout.n", "many"}},
        BadInput{"OutOfRange",
                 {"train", kQuickstart, "rollout.temperature=-1"},
                 2,
                 {"rollout.temperature", "-1"}},
        BadInput{"MissingFile", {"train", "configs/missing.yaml"}, 2, {"configs/missing.yaml"}},
        BadInput{"NoSuchCheckpoint", {"eval", "/no/such/checkpoint"}, 2, {"/no/such/checkpoint"}},
        BadInput{"NoPlaceForTheOutput",
                 {"eval", kConfigs, "-o", "/no/such/place/figures.json"},
                 2,
                 {"/no/such/place"}},
        BadInput{"NothingToResume",
                 {"train", kQuickstart, "--resume", "run_dir=/no/such/folder"},
                 2,
                 {"--resume", "/no/such/folder"}},
        BadInput{"NoSuchSubcommand", {"trian", kQuickstart}, 2, {"trian", "train, sft"}},
        BadInput{"NoSuchRun", {"trace", "log", "/no/such/run"}, 2, {"/no/such/run"}},
        BadInput{"NoSuchFamily", {"env", "run", "nursery:orchard/1"}, 2, {"orchard", "find"}},
        BadInput{"UnwritableRunDirectory",
                 {"train", kQuickstart, "run_dir=/proc/espalier"},
                 1,
                 {"/proc/espalier", "run_dir="}}),
    [](const auto& info) { return info.param.name; });

TEST(CommandLine, SaysWhatIsMissingWhereUserNamespacesAreForbidden) {
  // A nested user namespace in which no further one may be made stands for such a machine.
  const std::string script = "echo 0 > /proc/sys/user/max_user_namespaces && exec " ESPALIER_BINARY
                             " train " +
                             kQuickstart + " run_dir=/tmp/espalier-never";
  const Finished probe =
      run({"unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces"});
  if (probe.exit_code != 0)
    GTEST_SKIP() << "unshare cannot make a user namespace here: " << probe.output;
  const Finished refused = run({"unshare", "-Ur", "sh", "-c", script});
  EXPECT_EQ(refused.exit_code, common::kExitUnsupported) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("user namespace"));
  EXPECT_FALSE(std::filesystem::exists("/tmp/espalier-never"));
}

}  // namespace
}  // namespace espalier
