// Nursery tasks in real sandboxes: what the families promise must be what a shell really says.
#include "envs/agents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "common/error.h"
#include "common/files.h"
#include "envs/nursery/nursery.h"
#include "envs/sandbox/backend.h"

namespace espalier::envs {
namespace {

using ::testing::HasSubstr;

class Agents : public ::testing::Test {
 protected:
  void SetUp() override {
    SandboxOptions options;
    options.snapshot_dir = scratch_.path() / "snapshots";
    try {
      backend_ = make_sandbox_backend(options);
    } catch (const common::SandboxError& error) {
      GTEST_SKIP() << "no sandboxes here: " << error.what();
    }
  }

  EnvironmentPtr start(const Task& task) {
    return common::await<EnvironmentPtr>(
        [&](auto done) { backend_->create(task.environment, std::move(done)); });
  }

  AgentRun run(const Task& task, AgentKind agent) { return run_agent(*start(task), task, agent); }

  /// The first task of a family, seed by seed, whose oracle has a command beginning so.
  nursery::Blueprint task_with(const std::string& family, int depth, const std::string& command) {
    for (uint64_t seed = 0;; ++seed) {
      nursery::Blueprint blueprint = nursery::make_blueprint({family, seed, depth});
      for (const std::string& step : blueprint.oracle)
        if (step.starts_with(command)) return blueprint;
    }
  }

  /// The session in which the oracle's own commands solve the task, as text.
  std::string transcript(const nursery::Blueprint& blueprint) {
    TaskPtr task = sources_->load(blueprint.id.name());
    EnvironmentPtr environment = start(*task);
    std::string text;
    for (const Turn& turn : run_commands(*environment, blueprint.oracle, 30.0))
      text += "$ " + turn.command + "\n" + turn.observation.output;
    Verdict verdict = run_agent(*environment, *task, AgentKind::nop).verdict;
    EXPECT_EQ(verdict.reward, 1.0) << blueprint.id.name() << verdict.failure << "\n" << text;
    return text;
  }

  common::TempDir scratch_{"agents"};
  std::unique_ptr<TaskSource> sources_ = make_task_sources(scratch_.path() / "tasks");
  std::unique_ptr<Backend> backend_;
};

TEST_F(Agents, EarnOneAndZeroOnEveryFamily) {
  for (nursery::Tier tier : {nursery::Tier::base, nursery::Tier::hard, nursery::Tier::luck}) {
    for (const std::string& family : nursery::families(tier)) {
      TaskPtr task = sources_->load("nursery:" + family + "/11/d3");
      AgentRun oracle = run(*task, AgentKind::oracle);
      EXPECT_EQ(oracle.verdict.reward, 1.0) << family << " " << oracle.verdict.failure << "\n"
                                            << oracle.solution->output;
      EXPECT_EQ(run(*task, AgentKind::nop).verdict.reward, 0.0) << family;
    }
  }
}

TEST_F(Agents, SolveEveryFamilyTurnByTurn) {
  for (nursery::Tier tier : {nursery::Tier::base, nursery::Tier::hard, nursery::Tier::luck})
    for (const std::string& family : nursery::families(tier))
      transcript(nursery::make_blueprint({family, 12, 2}));
}

TEST_F(Agents, MeetClosedFilesAsTheirOwner) {
  nursery::Blueprint blueprint = task_with("perm", 1, "chmod +r ");
  std::string name = blueprint.oracle[1].substr(std::string("chmod +r ").size());
  std::string value = blueprint.oracle[3].substr(5, blueprint.oracle[3].find(" > out") - 5);
  EXPECT_EQ(transcript(blueprint),
            "$ cat " + name + "\ncat: " + name + ": Permission denied\n$ chmod +r " + name +
                "\n$ cat " + name + "\ngot " + value + "\n$ echo " + value + " > out\n$ exit\n");
}

TEST_F(Agents, SeeOneNameWhenUnpacking) {
  nursery::Blueprint blueprint = nursery::make_blueprint({"tar", 2, 1});
  std::string member = blueprint.oracle[1].substr(4);
  EXPECT_THAT(transcript(blueprint), HasSubstr("$ " + blueprint.oracle[0] + "\n" + member +
                                               "\n$ cat " + member + "\ngot "));
}

TEST_F(Agents, HearWhatARunNeeds) {
  nursery::Blueprint blueprint = task_with("fix", 1, "chmod +x ");
  std::string name = blueprint.oracle[1].substr(std::string("chmod +x ").size());
  EXPECT_EQ(transcript(blueprint),
            "$ sh run\nneed exec " + name + "\n$ chmod +x " + name + "\n$ sh run\nok\n$ exit\n");
}

TEST_F(Agents, CannotSeeTheCoinOfLuck) {
  TaskPtr task = sources_->load("nursery:luck/4/d1");
  Task tails = *task;
  tails.verifier.variables["ESPALIER_EPISODE_KEY"] = "00000000000000ff";
  AgentRun lost = run(tails, AgentKind::oracle);
  EXPECT_EQ(lost.verdict.reward, 0.5) << lost.verdict.failure;
  EnvironmentPtr environment = start(tails);
  std::vector<Turn> turns = run_commands(*environment, {"env; ls /tests /logs/verifier"}, 30.0);
  EXPECT_THAT(turns[0].observation.output, Not(HasSubstr("EPISODE_KEY")));
  EXPECT_THAT(turns[0].observation.output, Not(HasSubstr("test.sh")));
}

TEST_F(Agents, RefuseAnOracleWithoutASolution) {
  Task task = *sources_->load("nursery:find/1/d1");
  task.solution.clear();
  EXPECT_THROW(run(task, AgentKind::oracle), common::TaskError);
}

TEST(AgentKinds, AreNamed) {
  EXPECT_EQ(parse_agent_kind("oracle"), AgentKind::oracle);
  EXPECT_EQ(parse_agent_kind("nop"), AgentKind::nop);
  EXPECT_THROW(parse_agent_kind("nobody"), common::TaskError);
}

}  // namespace
}  // namespace espalier::envs
