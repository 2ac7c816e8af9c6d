// task.toml as Harbor defines it (schema 1.0 – 1.4): what a runner needs of it, the rest ignored.
#pragma once

#include <filesystem>

#include "envs/task.h"

namespace espalier::envs {

/// Overwrites in `task` what the file sets: name, timeouts, turns, metadata, environment, verifier
/// variables. Unknown keys are ignored; `${NAME}` and `${NAME:-default}` in variables come from
/// this process's environment. Errors: TaskError with file, key, the value seen and what is
/// allowed.
void read_task_toml(const std::filesystem::path& file, Task& task);

}  // namespace espalier::envs
