#include "envs/task.h"

#include <atomic>
#include <utility>

#include "common/error.h"
#include "common/files.h"
#include "envs/nursery/nursery.h"
#include "envs/task_toml.h"

namespace espalier::envs {
namespace {

namespace fs = std::filesystem;

std::string read_instruction(const fs::path& file) {
  std::string text;
  try {
    text = common::read_file(file);
  } catch (const common::StoreError& error) {
    throw common::TaskError(error.what());
  }
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  if (text.empty()) throw common::TaskError("task instruction '" + file.string() + "' is empty");
  return text;
}

/// Procedural tasks, written below `scratch` when asked for and removed with their last reference.
class NurserySource : public TaskSource {
 public:
  explicit NurserySource(fs::path scratch) : scratch_(std::move(scratch)) {}

  bool serves(const std::string& name) const override { return nursery::is_task_id(name); }

  TaskPtr load(const std::string& name) override {
    const nursery::TaskId id = nursery::parse_task_id(name);
    const fs::path directory =
        scratch_ / (id.family + "-" + std::to_string(id.seed) + "-d" + std::to_string(id.depth) +
                    "-" + std::to_string(loaded_++));
    TaskPtr task = nursery::materialise(nursery::make_blueprint(id), directory);
    return {task.get(), [task, directory](const Task*) {
              std::error_code ignored;
              fs::remove_all(directory, ignored);
            }};
  }

 private:
  const fs::path scratch_;
  std::atomic<uint64_t> loaded_{0};
};

class DirectorySource : public TaskSource {
 public:
  bool serves(const std::string& name) const override {
    std::error_code unreadable;
    return fs::is_directory(name, unreadable);
  }

  TaskPtr load(const std::string& name) override { return load_task_directory(name); }
};

class AllSources : public TaskSource {
 public:
  explicit AllSources(const fs::path& scratch) {
    sources_.push_back(std::make_unique<NurserySource>(scratch / "nursery"));
    sources_.push_back(std::make_unique<DirectorySource>());
  }

  bool serves(const std::string& name) const override { return find(name) != nullptr; }

  TaskPtr load(const std::string& name) override {
    if (TaskSource* source = find(name)) return source->load(name);
    throw common::TaskError("no task '" + name +
                            "': neither nursery:FAMILY/SEED nor a directory with a task.toml");
  }

 private:
  TaskSource* find(const std::string& name) const {
    for (const auto& source : sources_)
      if (source->serves(name)) return source.get();
    return nullptr;
  }

  std::vector<std::unique_ptr<TaskSource>> sources_;
};

/// A docker_image comes before a Dockerfile, as in Harbor; one that begins with a dot is a path
/// below the task.
void choose_image(Task* task) {
  std::string& image = task->environment.image;
  const fs::path environment = task->directory / "environment";
  if (image.starts_with("./") || image.starts_with("../"))
    image = (task->directory / image).lexically_normal().string();
  if (image != kHostImage) return;
  for (const char* name : {"docker-compose.yaml", "docker-compose.yml"})
    if (fs::exists(environment / name))
      throw common::TaskError("task directory '" + task->directory.string() + "' has environment/" +
                              name +
                              ": several containers; supported: one, from a Dockerfile or a "
                              "docker_image in task.toml");
  if (!fs::exists(environment / "Dockerfile")) return;
  image = (environment / "Dockerfile").string();
  task->environment.files.clear();  // the context of the build, which copies what it wants
}

}  // namespace

TaskPtr load_task_directory(const fs::path& directory) {
  if (!fs::exists(directory / "task.toml"))
    throw common::TaskError("task directory '" + directory.string() + "' has no task.toml");
  Task task;
  task.directory = fs::absolute(directory).lexically_normal();
  task.name = (task.directory.has_filename() ? task.directory : task.directory.parent_path())
                  .filename()
                  .string();
  read_task_toml(directory / "task.toml", task);
  task.instruction = read_instruction(directory / "instruction.md");
  task.verifier.tests = task.directory / "tests";
  if (!fs::exists(task.verifier.tests / "test.sh"))
    throw common::TaskError("task directory '" + directory.string() + "' has no tests/test.sh");
  if (fs::path files = task.directory / "environment" / "files"; fs::is_directory(files))
    task.environment.files = files;
  if (fs::path solve = task.directory / "solution" / "solve.sh"; fs::exists(solve))
    task.solution = solve;
  choose_image(&task);
  return std::make_shared<const Task>(std::move(task));
}

std::unique_ptr<TaskSource> make_task_sources(const fs::path& scratch) {
  return std::make_unique<AllSources>(scratch);
}

}  // namespace espalier::envs
