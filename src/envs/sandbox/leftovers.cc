#include "envs/sandbox/leftovers.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/files.h"
#include "envs/sandbox/cgroups.h"

namespace espalier::envs {
namespace sandbox {
namespace {

/// Of a process: when it started, in clock ticks since boot; 0: there is none, or a dead one.
unsigned long long start_time(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream text;
  text << file.rdbuf();
  const std::string stat = text.str();
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  // From the third field on: the state, then 18 others, then the start.
  std::istringstream fields(stat.substr(name_end + 1));
  std::string state, skipped;
  unsigned long long start = 0;
  fields >> state;
  for (int i = 0; i < 18; ++i) fields >> skipped;
  fields >> start;
  return state == "Z" || state == "X" ? 0 : start;
}

unsigned long long pid_namespace() {
  struct stat st {};
  return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

}  // namespace

std::string owner_tag() {
  return std::to_string(getpid()) + "-" + std::to_string(start_time(getpid())) + "-" +
         std::to_string(pid_namespace());
}

bool owner_is_gone(const std::string& tag) {
  int pid = 0;
  unsigned long long start = 0, space = 0;
  if (std::sscanf(tag.c_str(), "%d-%llu-%llu", &pid, &start, &space) != 3) return false;
  if (pid <= 0 || start == 0 || space != pid_namespace()) return false;
  return start_time(pid) != start;
}

}  // namespace sandbox

namespace {

namespace fs = std::filesystem;

constexpr int kRemovalAttempts = 50;
constexpr auto kRemovalPause = std::chrono::milliseconds(10);

/// Kills what is left in a group and removes it. Empty: done; else the reason.
std::string remove_group(const fs::path& group) {
  for (int attempt = 0; attempt < kRemovalAttempts; ++attempt) {
    if (rmdir(group.c_str()) == 0 || errno == ENOENT) return "";
    if (errno != EBUSY) return std::strerror(errno);
    std::ifstream procs(group / "cgroup.procs");
    for (pid_t pid; procs >> pid;)
      if (pid > 0) kill(pid, SIGKILL);
    std::this_thread::sleep_for(kRemovalPause);
  }
  return "its processes do not end";
}

void sweep_groups(bool remove, std::vector<Leftover>* all) {
  for (const sandbox::CgroupSite& site : sandbox::find_cgroup_sites(nullptr)) {
    std::vector<fs::path> dead;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(site.directory, ignored)) {
      const std::string name = entry.path().filename();
      const std::string prefix = sandbox::kGroupPrefix;
      if (name.starts_with(prefix) && sandbox::owner_is_gone(name.substr(prefix.size())))
        dead.push_back(entry.path());
    }
    for (const fs::path& path : dead)
      all->push_back({"control group", path, remove ? remove_group(path) : ""});
  }
}

}  // namespace

std::vector<Leftover> sweep_leftovers(bool remove) {
  std::vector<Leftover> all;
  sweep_groups(remove, &all);
  for (const fs::path& path : common::sweep_temp_dirs(remove)) {
    std::error_code ignored;
    const bool left = remove && fs::exists(path, ignored);
    all.push_back({"temporary directory", path, left ? "it could not be removed" : ""});
  }
  std::sort(all.begin(), all.end(),
            [](const Leftover& a, const Leftover& b) { return a.path < b.path; });
  return all;
}

}  // namespace espalier::envs
