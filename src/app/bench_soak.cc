#include "app/bench_soak.h"

#include <fmt/core.h>
#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "app/progress.h"
#include "app/session.h"
#include "common/error.h"
#include "common/stop.h"
#include "envs/sandbox/cgroups.h"
#include "envs/sandbox/leftovers.h"

namespace espalier::app {
namespace {

namespace fs = std::filesystem;

constexpr int kForksOfOneParent = 10;
constexpr int kForksAtOnce = 4;
constexpr int kAtOnce = 48;
constexpr double kMemoryTolerance = 0.05;
constexpr auto kSettleTime = std::chrono::seconds(10);
constexpr auto kSettlePause = std::chrono::milliseconds(50);

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {(std::istreambuf_iterator<char>(file)), {}};
}

size_t entries_of(const fs::path& directory) {
  std::error_code error;
  size_t count = 0;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    ++count;
  return count;
}

/// Descriptors of a process; those of network namespaces apart, which the supervisor keeps to use
/// again, one a place for a sandbox and depth of fork.
void count_descriptors(const std::string& pid, std::map<std::string, size_t>* counts) {
  std::error_code error;
  for (fs::directory_iterator entry("/proc/" + pid + "/fd", error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry->path(), gone).string();
    if (!gone) ++(*counts)[target.starts_with("net:") ? "kept_networks" : "descriptors"];
  }
}

/// This process and everything below it.
std::vector<std::string> own_processes() {
  std::map<std::string, std::vector<std::string>> children;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = text_of(entry.path() / "stat");
    const size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos) continue;
    std::istringstream fields(stat.substr(name_end + 1));
    std::string state, parent;
    fields >> state >> parent;
    children[parent].push_back(pid);
  }
  std::vector<std::string> all = {std::to_string(getpid())};
  for (size_t i = 0; i < all.size(); ++i)
    for (const std::string& child : children[all[i]]) all.push_back(child);
  return all;
}

size_t own_groups() {
  size_t count = 0;
  for (const auto& site : envs::sandbox::find_cgroup_sites(nullptr)) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(site.directory, error)) {
      const std::string prefix = envs::sandbox::kGroupPrefix + envs::sandbox::owner_tag();
      count += entry.path().filename().string().starts_with(prefix);
    }
  }
  return count;
}

size_t resident_kb(const std::string& pid) {
  std::istringstream fields(text_of("/proc/" + pid + "/statm"));
  size_t size = 0, resident = 0;
  fields >> size >> resident;
  return resident * size_t(sysconf(_SC_PAGE_SIZE)) / 1024;
}

using Counts = std::map<std::string, size_t>;

Counts count_now() {
  malloc_trim(0);  // freed memory is not a leak
  Counts counts;
  const std::string own = std::to_string(getpid());
  for (const std::string& pid : own_processes()) {
    ++counts["processes"];
    count_descriptors(pid, &counts);
    counts["threads"] += entries_of("/proc/" + pid + "/task");
    // Apart, for the program itself is large.
    counts[pid == own ? "resident_kb" : "descendants_resident_kb"] += resident_kb(pid);
    const std::string mounts = text_of("/proc/" + pid + "/mountinfo");
    counts["mounts"] += size_t(std::count(mounts.begin(), mounts.end(), '\n'));
  }
  counts["control_groups"] = own_groups();
  return counts;
}

/// Environments end in the background: waits until the numbers stand still.
Counts settled_counts() {
  const auto until = std::chrono::steady_clock::now() + kSettleTime;
  Counts last = count_now();
  for (int same = 0; same < 10 && std::chrono::steady_clock::now() < until;) {
    std::this_thread::sleep_for(kSettlePause);
    Counts now = count_now();
    same = now == last ? same + 1 : 0;
    last = std::move(now);
  }
  return last;
}

envs::EnvironmentPtr create(envs::Backend& backend) {
  return common::await<envs::EnvironmentPtr>(
      [&](auto done) { backend.create({}, std::move(done)); });
}

void run(envs::Environment& environment, const std::string& command) {
  common::await<envs::Observation>([&](auto done) {
    environment.run(command, envs::Clock::now() + std::chrono::seconds(60), std::move(done));
  });
}

void start_many(envs::Backend& backend, int count) {
  Progress bar("bench soak: starts", count, "starts");
  for (int i = 0; i < count && !common::stop_requested(); ++i) {
    const envs::EnvironmentPtr environment = create(backend);
    run(*environment, "echo x > f");
    bar.update(i + 1);
  }
}

/// As many at once as the rest of the soak never reaches: the supervisor keeps places for sandboxes
/// to use again, as many as were ever needed together.
void start_at_once(envs::Backend& backend) {
  std::vector<envs::EnvironmentPtr> all;
  for (int i = 0; i < kAtOnce; ++i) all.push_back(create(backend));
}

/// Forks of parents that change between them, a few children alive at a time.
void fork_many(envs::Backend& backend, int count) {
  Progress bar("bench soak: forks", count, "forks");
  envs::EnvironmentPtr parent;
  std::vector<envs::EnvironmentPtr> children;
  for (int i = 0; i < count && !common::stop_requested(); ++i) {
    if (i % kForksOfOneParent == 0) parent = create(backend);
    run(*parent, fmt::format("x={}; echo $x >> f", i));
    children.push_back(
        common::await<envs::Fork>([&](auto done) { parent->fork(std::move(done)); }).child);
    run(*children.back(), "echo child >> f");
    if (children.size() >= kForksAtOnce) children.clear();
    bar.update(i + 1);
  }
}

nlohmann::json leaks(const Counts& before, const Counts& after) {
  nlohmann::json found = nlohmann::json::array();
  for (const auto& [what, count] : after) {
    const size_t then = before.count(what) ? before.at(what) : 0;
    double allowed = what.ends_with("resident_kb") ? kMemoryTolerance * double(then) : 0;
    if (what == "kept_networks")
      allowed = double(after.at("processes") * (kForksOfOneParent + 1)) - double(then);
    // Fewer than before is no leak: what the warm-up had filled has been given back.
    if (double(count) > double(then) + allowed)
      found.push_back(fmt::format("{}: {} before, {} after", what, then, count));
  }
  return found;
}

}  // namespace

nlohmann::json run_soak(const Soak& soak) {
  constexpr int kWarmUp = 10;  // a tenth of the work, at most so many parents' worth
  const common::TempDir scratch("espalier-soak");
  const std::unique_ptr<envs::Backend> backend = make_backend(common::Config{}, scratch.path());
  start_at_once(*backend);
  start_many(*backend, std::min(soak.starts, kWarmUp * kForksOfOneParent));
  fork_many(*backend, std::min(soak.forks, kWarmUp * kForksOfOneParent));
  const Counts before = settled_counts();
  const auto start = std::chrono::steady_clock::now();
  start_many(*backend, soak.starts);
  fork_many(*backend, soak.forks);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const Counts after = settled_counts();
  return {{"forks", soak.forks},
          {"starts", soak.starts},
          {"seconds", seconds.count()},
          {"before", before},
          {"after", after},
          {"leaks", leaks(before, after)},
          {"live_environments", backend->live_environments()}};
}

}  // namespace espalier::app
