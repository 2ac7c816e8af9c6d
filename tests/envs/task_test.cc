#include "envs/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <thread>

#include "common/error.h"
#include "common/files.h"
#include "envs/nursery/nursery.h"

namespace espalier::envs {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

/// A small task directory in the making.
class TaskDirectory {
 public:
  explicit TaskDirectory(const std::string& toml) {
    write(path() / "task.toml", toml);
    write(path() / "instruction.md", "Do it.\n");
    write(path() / "tests/test.sh", "echo 1 > /logs/verifier/reward.txt\n");
  }
  fs::path path() const { return directory_.path() / "my-task"; }

  std::string error() const {
    try {
      load_task_directory(path());
    } catch (const common::TaskError& error) {
      return error.what();
    }
    return "";
  }

 private:
  common::TempDir directory_{"task"};
};

TEST(TaskDirectories, GiveWhatARunnerNeeds) {
  TaskDirectory directory(R"(
version = "1.0"
surprise = 7
[metadata]
difficulty = "hard"
tags = ["a", "b"]
expert_time_estimate_min = 60
max_turns = 12
[agent]
timeout_sec = 900
[verifier]
timeout_sec = 360.5
env = { KEY = "value", HOME_OF = "${HOME_THAT_IS_NOT_SET:-none}" }
[environment]
workdir = "/root"
cpus = 2
memory = "4G"
storage_mb = 100
env = { LANG = "C" }
)");
  write(directory.path() / "environment/files/a", "x");
  write(directory.path() / "solution/solve.sh", "true\n");
  TaskPtr task = load_task_directory(directory.path());
  EXPECT_EQ(task->name, "my-task");
  EXPECT_EQ(task->instruction, "Do it.");
  EXPECT_EQ(task->max_turns, 12);
  EXPECT_EQ(task->agent_timeout_s, 900);
  EXPECT_EQ(task->verifier.timeout_s, 360.5);
  EXPECT_EQ(task->verifier.tests, directory.path() / "tests");
  EXPECT_EQ(task->verifier.variables.at("KEY"), "value");
  EXPECT_EQ(task->verifier.variables.at("HOME_OF"), "none");
  EXPECT_EQ(task->environment.workdir, "/root");
  EXPECT_EQ(task->environment.limits.cpus, 2);
  EXPECT_EQ(task->environment.limits.memory_bytes, size_t{4} << 30);
  EXPECT_EQ(task->environment.limits.disk_bytes, size_t{100} << 20);
  EXPECT_EQ(task->environment.variables.at("LANG"), "C");
  EXPECT_EQ(task->environment.files, directory.path() / "environment/files");
  EXPECT_FALSE(task->environment.network);
  EXPECT_EQ(task->solution, directory.path() / "solution/solve.sh");
  EXPECT_EQ(task->metadata.at("difficulty"), "hard");
  EXPECT_EQ(task->metadata.at("expert_time_estimate_min"), "60");
}

TEST(TaskDirectories, HaveDefaultsForAllThatIsNotSaid) {
  TaskDirectory directory("");
  TaskPtr task = load_task_directory(directory.path());
  EXPECT_EQ(task->environment.image, "host");
  EXPECT_TRUE(task->environment.files.empty());
  EXPECT_TRUE(task->solution.empty());
  EXPECT_EQ(task->verifier.timeout_s, 600.0);
}

TEST(TaskDirectories, AreRefusedWithFileKeyAndValue) {
  EXPECT_THAT(TaskDirectory("[agent]\ntimeout_sec = -3\n").error(),
              ::testing::AllOf(HasSubstr("task.toml:2"), HasSubstr("agent.timeout_sec"),
                               HasSubstr("-3"), HasSubstr("allowed")));
  EXPECT_THAT(TaskDirectory("[agent]\ntimeout_sec = \"soon\"\n").error(), HasSubstr("soon"));
  EXPECT_THAT(TaskDirectory("agent = 3\n").error(), HasSubstr("a table"));
  EXPECT_THAT(TaskDirectory("[environment]\nmemory = \"many\"\n").error(), HasSubstr("512M"));
  EXPECT_THAT(TaskDirectory("[verifier]\nenv = {A = \"${NOT_SET_ANYWHERE}\"}\n").error(),
              HasSubstr("NOT_SET_ANYWHERE"));
  EXPECT_THAT(TaskDirectory("not toml at all\n").error(), HasSubstr("task.toml"));
}

TEST(TaskDirectories, SayWhichImageTheyRunIn) {
  auto image_of = [](const TaskDirectory& directory) {
    return load_task_directory(directory.path())->environment.image;
  };
  TaskDirectory plain("");
  EXPECT_EQ(image_of(plain), "host");
  EXPECT_EQ(load_task_directory(plain.path())->environment.workdir, "");
  write(plain.path() / "environment/Dockerfile", "FROM debian\n");
  write(plain.path() / "environment/files/part-of-the-context", "x");
  EXPECT_EQ(image_of(plain), (plain.path() / "environment/Dockerfile").string());
  EXPECT_EQ(load_task_directory(plain.path())->environment.files, "");
  TaskDirectory named("[environment]\ndocker_image = \"someone/image:1\"\n");
  write(named.path() / "environment/Dockerfile", "FROM debian\n");
  EXPECT_EQ(image_of(named), "someone/image:1");
  TaskDirectory relative("[environment]\ndocker_image = \"./environment/root.tar.gz\"\n");
  EXPECT_EQ(image_of(relative), (relative.path() / "environment/root.tar.gz").string());
}

TEST(TaskDirectories, AreRefusedWhenPartsAreMissing) {
  TaskDirectory directory("");
  write(directory.path() / "environment/docker-compose.yaml", "services: {}\n");
  EXPECT_THAT(directory.error(), HasSubstr("docker-compose.yaml"));
  fs::remove_all(directory.path() / "environment");
  EXPECT_EQ(directory.error(), "");
  fs::remove(directory.path() / "tests/test.sh");
  EXPECT_THAT(directory.error(), HasSubstr("tests/test.sh"));
  fs::remove(directory.path() / "instruction.md");
  EXPECT_THAT(directory.error(), HasSubstr("instruction.md"));
  fs::remove(directory.path() / "task.toml");
  EXPECT_THAT(directory.error(), HasSubstr("task.toml"));
}

TEST(TaskSources, ServeTheNurseryAndDirectories) {
  common::TempDir scratch("sources");
  auto sources = make_task_sources(scratch.path());
  TaskPtr task = sources->load("nursery:perm/3/d4");
  EXPECT_EQ(task->name, "nursery:perm/3/d4");
  EXPECT_EQ(task->metadata.at("family"), "perm");
  EXPECT_EQ(task->metadata.at("depth"), "4");
  EXPECT_EQ(task->metadata.at("tier"), "base");
  nursery::Blueprint blueprint = nursery::make_blueprint({"perm", 3, 4});
  EXPECT_EQ(task->instruction, blueprint.instruction);
  EXPECT_EQ(task->max_turns, blueprint.max_turns());
  EXPECT_EQ(task->environment.variables.at("LC_ALL"), "C.UTF-8");
  for (const nursery::FileSpec& file : blueprint.files) {
    struct stat status {};
    ASSERT_EQ(stat((task->environment.files / file.path).c_str(), &status), 0) << file.path;
    EXPECT_EQ(status.st_mode & 07777, file.mode) << file.path;
  }
  EXPECT_EQ(sources->load(task->directory.string())->instruction, task->instruction);
  EXPECT_FALSE(sources->serves("/no/such/directory"));
  EXPECT_THROW(sources->load("/no/such/directory"), common::TaskError);
  EXPECT_THROW(sources->load("nursery:nope/1"), common::TaskError);
}

TEST(TaskSources, ATaskHasItsDirectoryAsLongAsItIsHeld) {
  common::TempDir scratch("sources");
  auto sources = make_task_sources(scratch.path());
  std::vector<std::thread> threads;
  std::vector<std::vector<TaskPtr>> tasks(4);
  for (auto& mine : tasks)
    threads.emplace_back([&] {
      for (int seed = 0; seed < 25; ++seed)
        mine.push_back(sources->load("nursery:tar/" + std::to_string(seed) + "/d2"));
    });
  for (std::thread& thread : threads) thread.join();
  std::set<fs::path> places;
  for (const auto& mine : tasks)
    for (const TaskPtr& task : mine) {
      places.insert(task->directory);
      EXPECT_TRUE(fs::exists(task->verifier.tests / "test.sh")) << task->name;
    }
  EXPECT_EQ(places.size(), 100u);
  tasks.clear();
  EXPECT_TRUE(fs::is_empty(scratch.path() / "nursery"));
}

TEST(TaskSources, SayWhereTheyCannotWrite) {
  common::TempDir scratch("sources");
  write(scratch.path() / "file", "in the way");
  auto sources = make_task_sources(scratch.path() / "file");
  try {
    sources->load("nursery:find/1");
    FAIL() << "wrote into a file";
  } catch (const common::TaskError& error) {
    EXPECT_THAT(error.what(), HasSubstr((scratch.path() / "file").string()));
  }
}

}  // namespace
}  // namespace espalier::envs
