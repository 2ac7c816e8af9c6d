// Limits as the kernel keeps them.
#include <unistd.h>

#include <sstream>

#include "envs/limits.h"
#include "envs/sandbox/cgroups.h"
#include "isolation.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

TEST_F(Isolation, LimitsStandInItsControlGroups) {
  const auto sites = sandbox::find_cgroup_sites(nullptr);
  if (sites.empty()) GTEST_SKIP() << "no usable control groups on this machine";
  EnvironmentSpec spec;
  spec.limits.memory_bytes = 96 << 20;
  spec.limits.disk_bytes = 32 << 20;
  spec.limits.pids = 30;
  spec.limits.cpus = 0.5;
  auto environment = create(spec);
  const std::string marker = "sleep 77.0" + std::to_string(getpid());
  // Until it is the program, not the shell's copy about to become it.
  run(*environment, marker + " & until [ \"$(cat /proc/$!/comm)\" = sleep ]; do :; done");
  const auto processes = host_processes(marker);
  ASSERT_EQ(processes.size(), 1u);
  std::istringstream lines(
      common::read_file("/proc/" + std::to_string(processes.front()) + "/cgroup"));
  size_t checked = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t name = line.find(sandbox::kGroupPrefix);
    if (name == std::string::npos) continue;
    for (const sandbox::CgroupSite& site : sites) {
      const auto group = site.directory / line.substr(name);
      auto is = [&](const char* controller, const char* file, const std::string& value) {
        if (!site.has(controller) || !std::filesystem::exists(group / file)) return;
        if (!site.v2 && line.find(":" + std::string(controller)) == std::string::npos) return;
        EXPECT_EQ(first_line(group / file), value) << group / file;
        ++checked;
      };
      is("memory", site.v2 ? "memory.max" : "memory.limit_in_bytes", "134217728");
      // A few more than the task's: the shell, and what brings the sandbox up.
      is("pids", "pids.max", "35");
      is("cpu", site.v2 ? "cpu.max" : "cpu.cfs_quota_us", site.v2 ? "50000 100000" : "50000");
    }
  }
  size_t controllers = 0;
  for (const sandbox::CgroupSite& site : sites)
    for (const char* name : {"memory", "pids", "cpu"}) controllers += site.has(name);
  EXPECT_EQ(checked, controllers) << "the command is in every group of its sandbox";
}

TEST_F(Isolation, ResourceLimitsHoldWithoutControlGroups) {
  SandboxOptions options;
  options.force_rlimits = true;
  environment_.reset();
  backend_ = make_sandbox_backend(options);
  EnvironmentSpec spec;
  spec.limits.memory_bytes = 96 << 20;
  spec.limits.pids = 30;
  environment_ = create(spec);
  EXPECT_EQ(output_of(*environment_, "ulimit -Hd; ulimit -Hu; ulimit -Hc"), "98304\n32\n0\n");
  EXPECT_EQ(output_of(*environment_,
                      "ulimit -d unlimited 2>/dev/null && echo ALLOWED; "
                      "cut -d: -f3 /proc/self/cgroup | grep espalier"),
            "");
}

TEST_F(Isolation, WhatOutlivesItsProcessCountsAsMemory) {
  if (!has("python3")) GTEST_SKIP() << "segments are made from python3, which this machine lacks";
  if (sandbox::find_cgroup_sites(nullptr).empty())
    GTEST_SKIP() << "without control groups only each process is limited";
  EnvironmentSpec spec;
  spec.limits.memory_bytes = 48 << 20;
  spec.limits.disk_bytes = 16 << 20;
  auto environment = create(spec);
  put_file(*environment, "/opt/segments.py", R"(
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for i in range(64):
    segment = libc.shmget(0, 8 << 20, 0o1600)
    if segment < 0: break
    ctypes.memset(libc.shmat(segment, 0, 0), 1, 8 << 20)
print('ALLOWED', i)
)");
  // The group runs out of memory, and at last the sandbox itself may: that too is an outcome.
  try {
    EXPECT_THAT(output_of(*environment, "python3 /opt/segments.py"),
                ::testing::Not(HasSubstr("ALLOWED 63")));
  } catch (const common::SandboxError& error) {
    EXPECT_THAT(error.what(), HasSubstr("memory"));
  }
}

TEST_F(Isolation, TerminalsAreLimitedForThereIsOneNumberOfThemForTheMachine) {
  if (!has("python3")) GTEST_SKIP() << "terminals are made from python3, which this machine lacks";
  EXPECT_EQ(
      output_of(*environment_,
                "python3 -c \"import os\nn = 0\ntry:\n  while n < 500:\n    os.openpty(); n += 1\n"
                "except OSError: pass\nprint(8 <= n <= 64)\""),
      "True\n");
}

TEST(LimitsOfTasks, WhatATaskDeclaresTakesThePlaceOfTheConfiguration) {
  Limits configured;
  configured.memory_bytes = 1 << 20;
  configured.pids = 7;
  Limits declared;
  declared.memory_bytes = 5 << 20;
  declared.cpus = 2;
  const Limits limits = limits_of_task(declared, configured);
  EXPECT_EQ(limits.memory_bytes, size_t{5} << 20);
  EXPECT_EQ(limits.cpus, 2);
  EXPECT_EQ(limits.pids, 7);
  EXPECT_EQ(limits.disk_bytes, configured.disk_bytes);
}

TEST(LimitsOfTasks, NoMachineHasAPebibyte) {
  EXPECT_GT(memory_of_machine(), size_t{1} << 26);
  Limits limits;
  EXPECT_NO_THROW(check_limits(limits, true));
  limits.disk_bytes = size_t{1} << 50;
  EXPECT_NO_THROW(check_limits(limits, false));
  EXPECT_THROW(check_limits(limits, true), common::TaskError);
}

}  // namespace
}  // namespace espalier::envs::testing
