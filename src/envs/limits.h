// Whether this machine can give an environment what its task asks for.
#pragma once

#include "envs/environment.h"

namespace espalier::envs {

/// Memory that this process and what it starts may use: the machine's, or less where a control
/// group says so.
size_t memory_of_machine();

/// Errors: TaskError with what is asked and what there is. `files_in_memory`: what is written
/// counts as memory.
void check_limits(const Limits& limits, bool files_in_memory);

/// The limits of a task's environment: each one that the task declares, else the configured one.
Limits limits_of_task(const Limits& declared, const Limits& configured);

}  // namespace espalier::envs
