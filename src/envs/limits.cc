#include "envs/limits.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "common/error.h"
#include "envs/sandbox/cgroups.h"

namespace espalier::envs {
namespace {

std::string gibibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", double(bytes) / double(size_t{1} << 30));
  return text;
}

}  // namespace

size_t memory_of_machine() {
  const size_t machine = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE));
  return std::min(machine, sandbox::own_memory_limit());
}

void check_limits(const Limits& limits, bool files_in_memory) {
  const size_t available = memory_of_machine();
  auto refuse = [&](size_t asked, const char* what, const char* keys) {
    throw common::TaskError("start an environment: it asks for " + gibibytes(asked) + what +
                            "; this machine has " + gibibytes(available) + ". Lower " + keys +
                            " or use a larger machine");
  };
  if (limits.memory_bytes > available)
    refuse(limits.memory_bytes, " of memory", "the task's memory (or env.memory_mb)");
  if (files_in_memory && limits.disk_bytes > available)
    refuse(limits.disk_bytes, " for its files, which lie in memory",
           "the task's storage (or env.disk_mb)");
}

Limits limits_of_task(const Limits& declared, const Limits& configured) {
  const Limits unsaid;
  Limits limits = configured;
  if (declared.memory_bytes != unsaid.memory_bytes) limits.memory_bytes = declared.memory_bytes;
  if (declared.disk_bytes != unsaid.disk_bytes) limits.disk_bytes = declared.disk_bytes;
  if (declared.disk_inodes != unsaid.disk_inodes) limits.disk_inodes = declared.disk_inodes;
  if (declared.pids != unsaid.pids) limits.pids = declared.pids;
  if (declared.cpus != unsaid.cpus) limits.cpus = declared.cpus;
  if (declared.output_bytes != unsaid.output_bytes) limits.output_bytes = declared.output_bytes;
  return limits;
}

}  // namespace espalier::envs
