// Blueprints as task directories on disk.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "common/error.h"
#include "envs/nursery/nursery.h"

namespace espalier::envs::nursery {
namespace {

namespace fs = std::filesystem;

// What a task can be solved with, and nothing whose output tells the time or the machine's load:
// `w`, `ps` or `date` would make equal runs differ.
constexpr const char* kTools[] = {"cat", "chmod", "cp", "grep", "head", "ls",  "mkdir", "mv",
                                  "rm",  "sed",   "sh", "sort", "tail", "tar", "touch", "wc"};
constexpr const char* kToolFolder =
    ".bin";  // of the working directory; the only folder on the PATH

void write_file(const fs::path& path, const std::string& content, unsigned mode) {
  fs::create_directories(path.parent_path());
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  if (!file)
    throw common::TaskError("nursery: cannot write '" + path.string() +
                            "': " + std::strerror(errno ? errno : EIO));
  fs::permissions(path, static_cast<fs::perms>(mode));
}

std::string settings(const Blueprint& blueprint) {
  const TaskId& id = blueprint.id;
  std::string depth = std::to_string(id.depth);
  return "schema_version = \"1.1\"\n\n[task]\nname = \"nursery/" + id.family + "-" +
         std::to_string(id.seed) + "-d" + depth + "\"\n\n[metadata]\nfamily = \"" + id.family +
         "\"\ndepth = " + depth + "\ntier = \"" + to_string(tier_of(id.family)) +
         "\"\nmax_turns = " + std::to_string(blueprint.max_turns()) +
         "\n\n[agent]\ntimeout_sec = 600.0\n\n[verifier]\ntimeout_sec = 60.0\n\n[environment]\n"
         "workdir = \"/app\"\nallow_internet = false\nenv = { LC_ALL = \"C.UTF-8\", PATH = "
         "\"/app/" +
         kToolFolder + "\" }\n";
}

std::string solution(const Blueprint& blueprint) {
  std::string script = "#!/bin/bash\ncd /app\n";
  for (const std::string& command : blueprint.oracle) script += command + "\n";
  return script;
}

void write_task(const Blueprint& blueprint, const fs::path& directory) {
  fs::path files = directory / "environment" / "files";
  fs::create_directories(files);
  for (const FileSpec& file : blueprint.files) {
    if (file.directory) {
      fs::create_directories(files / file.path);
      fs::permissions(files / file.path, static_cast<fs::perms>(file.mode));
    } else {
      write_file(files / file.path, file.content, file.mode);
    }
  }
  fs::create_directory(files / kToolFolder);
  for (const char* tool : kTools)
    fs::create_symlink(fs::path("/usr/bin") / tool, files / kToolFolder / tool);
  write_file(directory / "instruction.md", blueprint.instruction + "\n", 0644);
  write_file(directory / "tests" / "test.sh", blueprint.test_script, 0755);
  write_file(directory / "solution" / "solve.sh", solution(blueprint), 0755);
  write_file(directory / "task.toml", settings(blueprint), 0644);
}

/// A name beside `directory` that no other thread or process uses.
fs::path scratch_beside(const fs::path& directory) {
  static std::atomic<unsigned> count{0};
  return directory.parent_path() / ("." + directory.filename().string() + ".tmp-" +
                                    std::to_string(getpid()) + "-" + std::to_string(count++));
}

}  // namespace

TaskPtr materialise(const Blueprint& blueprint, const fs::path& directory) {
  try {
    if (!fs::exists(directory / "task.toml")) {
      fs::path scratch = scratch_beside(directory);
      write_task(blueprint, scratch);
      std::error_code lost;
      fs::rename(scratch, directory, lost);
      if (lost) {
        fs::remove_all(scratch);
        // Somebody else was first, with the same content; anything else is an error.
        if (!fs::exists(directory / "task.toml"))
          throw fs::filesystem_error("rename", directory, lost);
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw common::TaskError("nursery task '" + blueprint.id.name() + "': cannot write '" +
                            directory.string() + "': " + error.code().message());
  }
  Task task = *load_task_directory(directory);
  task.name = blueprint.id.name();
  return std::make_shared<const Task>(std::move(task));
}

}  // namespace espalier::envs::nursery
