#include "app/run_directory.h"

#include <fmt/core.h>

#include <system_error>

#include "common/error.h"
#include "common/files.h"

namespace espalier::app {

namespace fs = std::filesystem;

namespace {

fs::path numbered(const common::Config& config, int number) {
  const std::string suffix = number == 1 ? "" : fmt::format("-{}", number);
  return fs::path(config.run_dir) / (config.name + suffix);
}

}  // namespace

RunDirectory create_run(common::Config& config) {
  std::error_code error;
  fs::create_directories(config.run_dir, error);
  if (error) {
    throw common::StoreError(
        fmt::format("cannot create run_dir '{}': {}; set run_dir=DIR to a writable directory",
                    config.run_dir, error.message()));
  }
  for (int number = 1;; ++number) {
    RunDirectory run{numbered(config, number)};
    const bool created = fs::create_directory(run.root, error);
    if (error) {
      throw common::StoreError(fmt::format(
          "cannot create run directory '{}': {}; set run_dir=DIR to a writable directory",
          run.root.string(), error.message()));
    }
    if (!created) continue;
    for (const fs::path& folder : {run.journal(), run.trees(), run.checkpoints()}) {
      fs::create_directory(folder);
    }
    config.name = run.root.filename().string();
    common::write_file_atomically(run.config(), common::to_yaml(config));
    return run;
  }
}

RunDirectory find_run(const fs::path& file, const common::Config& config) {
  const RunDirectory own{fs::absolute(file).parent_path()};
  if (fs::absolute(file) == own.config() && fs::is_directory(own.checkpoints())) return own;
  int newest = 0;
  while (fs::exists(numbered(config, newest + 1))) ++newest;
  if (newest == 0) {
    throw common::ConfigError(
        fmt::format("--resume: there is no run at '{}'", numbered(config, 1).string()));
  }
  return RunDirectory{numbered(config, newest)};
}

}  // namespace espalier::app
