#include "envs/sandbox/cgroups.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "common/error.h"
#include "envs/sandbox/leftovers.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWanted[] = {"memory", "pids", "cpu"};
constexpr uint64_t kCpuPeriodUs = 100'000;
// What a group may still be charged with (file pages of a frozen layer) and be used again.
constexpr uint64_t kReusableBytes = 4 << 20;

std::set<std::string> split(const std::string& text, char separator) {
  std::set<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);)
    if (!part.empty()) parts.insert(part);
  return parts;
}

/// Controller list ("" for v2) → this process's path in that hierarchy.
std::map<std::string, std::string> own_paths() {
  std::map<std::string, std::string> paths;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    for (const auto& name : split(line.substr(first + 1, second - first - 1), ','))
      paths[name] = line.substr(second + 1);
    if (second == first + 1) paths[""] = line.substr(second + 1);
  }
  return paths;
}

struct Mount {
  fs::path point;
  std::string root;  // of the hierarchy that is mounted here
  std::set<std::string> options;
  bool v2;
};

std::vector<Mount> cgroup_mounts() {
  std::vector<Mount> mounts;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::stringstream stream(line);
    std::string id, parent, device, root, point, word, type, source, options;
    stream >> id >> parent >> device >> root >> point;
    while (stream >> word && word != "-") {
    }
    stream >> type >> source >> options;
    if (type == "cgroup" || type == "cgroup2")
      mounts.push_back({point, root, split(options, ','), type == "cgroup2"});
  }
  return mounts;
}

bool write_file(const fs::path& path, const std::string& text) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && write(fd.get(), text.data(), text.size()) == ssize_t(text.size());
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

fs::path own_directory(const Mount& mount, const std::string& path) {
  std::string relative = path;
  if (mount.root != "/" && relative.rfind(mount.root, 0) == 0)
    relative = relative.substr(mount.root.size());
  return mount.point / fs::path(relative).relative_path();
}

/// True when a group can be made here and takes processes.
bool usable(const fs::path& directory, const std::string& needed_file) {
  fs::path probe = directory / (kGroupPrefix + owner_tag() + "-probe");
  if (mkdir(probe.c_str(), 0755) && errno != EEXIST) return false;
  bool done = access((probe / needed_file).c_str(), W_OK) == 0 &&
              access((probe / "cgroup.procs").c_str(), W_OK) == 0;
  rmdir(probe.c_str());
  return done;
}

const char* limit_file(const std::string& controller, bool v2) {
  if (controller == "memory") return v2 ? "memory.max" : "memory.limit_in_bytes";
  if (controller == "pids") return "pids.max";
  return v2 ? "cpu.max" : "cpu.cfs_quota_us";
}

/// Lets groups below `directory` use the controllers it has. A group with processes of its own
/// cannot; a delegated one is emptied by moving this process into a leaf.
std::set<std::string> enable_v2(const fs::path& directory) {
  std::set<std::string> enabled;
  for (const char* name : kWanted) {
    fs::path control = directory / "cgroup.subtree_control";
    std::string word = std::string("+") + name;
    if (!write_file(control, word) && errno == EBUSY) {
      fs::path leaf = directory / "espalier-trainer";
      mkdir(leaf.c_str(), 0755);
      write_file(leaf / "cgroup.procs", "0");
      write_file(control, word);
    }
    std::string now = read_text(control);
    for (char& c : now)
      if (c == '\n') c = ' ';
    if (split(now, ' ').count(name) && usable(directory, limit_file(name, true)))
      enabled.insert(name);
  }
  return enabled;
}

void add_v1(const Mount& mount, const std::map<std::string, std::string>& paths,
            std::set<std::string>* missing, std::vector<CgroupSite>* sites) {
  std::string controllers;
  std::string first;
  for (const char* name : kWanted) {
    if (!mount.options.count(name) || !missing->count(name)) continue;
    if (first.empty()) first = name;
    controllers += (controllers.empty() ? "" : ",") + std::string(name);
  }
  if (first.empty() || !paths.count(first)) return;
  for (const fs::path& directory : {own_directory(mount, paths.at(first)), mount.point}) {
    if (!usable(directory, limit_file(first, false))) continue;
    sites->push_back({controllers, directory, false});
    for (const auto& name : split(controllers, ',')) missing->erase(name);
    return;
  }
}

void add_v2(const Mount& mount, const std::map<std::string, std::string>& paths,
            std::set<std::string>* missing, std::vector<CgroupSite>* sites) {
  if (!paths.count("")) return;
  for (const fs::path& directory : {own_directory(mount, paths.at("")), mount.point}) {
    std::string controllers;
    for (const auto& name : enable_v2(directory))
      if (missing->count(name)) controllers += (controllers.empty() ? "" : ",") + name;
    if (controllers.empty()) continue;
    sites->push_back({controllers, directory, true});
    for (const auto& name : split(controllers, ',')) missing->erase(name);
    return;
  }
}

void set_limit(const fs::path& directory, const char* file, const std::string& value) {
  if (!write_file(directory / file, value))
    throw_errno("write " + value + " to " + (directory / file).string());
}

void limit_memory(const CgroupSite& site, const fs::path& directory, const Limits& limits) {
  // Files lie in memory: the file system's cap comes on top, so that a full disk is ENOSPC, not
  // death.
  auto bytes = std::to_string(limits.memory_bytes + limits.disk_bytes);
  set_limit(directory, limit_file("memory", site.v2), bytes);
  // Neither file is there on a kernel without swap accounting.
  write_file(directory / (site.v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes"),
             site.v2 ? "0" : bytes);
}

void limit_cpus(const CgroupSite& site, const fs::path& directory, double cpus) {
  auto quota = std::to_string(uint64_t(std::llround(cpus * double(kCpuPeriodUs))));
  auto period = std::to_string(kCpuPeriodUs);
  if (site.v2) return set_limit(directory, "cpu.max", quota + " " + period);
  if (read_text(directory / "cpu.cfs_period_us") != period + "\n")
    set_limit(directory, "cpu.cfs_period_us", period);
  set_limit(directory, "cpu.cfs_quota_us", quota);
}

void limit_group(const CgroupSite& site, const fs::path& directory, const Limits& limits) {
  if (site.has("memory") && limits.memory_bytes) limit_memory(site, directory, limits);
  // Init, the shell, the cradle, and a copy of the shell that is moved to its own group at once.
  if (site.has("pids") && limits.pids)
    set_limit(directory, "pids.max", std::to_string(limits.pids + 5));
  if (site.has("cpu") && limits.cpus > 0) limit_cpus(site, directory, limits.cpus);
}

}  // namespace

bool CgroupSite::has(const std::string& controller) const {
  return split(controllers, ',').count(controller) > 0;
}

std::vector<CgroupSite> find_cgroup_sites(std::vector<std::string>* missing) {
  std::vector<CgroupSite> sites;
  std::set<std::string> wanted(std::begin(kWanted), std::end(kWanted));
  auto paths = own_paths();
  auto mounts = cgroup_mounts();
  for (const Mount& mount : mounts)
    if (!mount.v2) add_v1(mount, paths, &wanted, &sites);
  for (const Mount& mount : mounts)
    if (mount.v2 && !wanted.empty()) add_v2(mount, paths, &wanted, &sites);
  if (missing)
    for (const auto& name : wanted)
      missing->push_back(name + (mounts.empty()
                                     ? ": no cgroup file system is mounted"
                                     : ": no hierarchy of it is writable for this process"));
  return sites;
}

size_t own_memory_limit() {
  size_t least = std::numeric_limits<size_t>::max();
  auto note = [&](const std::string& text) {  // "max" is not a number
    if (size_t bytes = std::strtoull(text.c_str(), nullptr, 10)) least = std::min(least, bytes);
  };
  auto paths = own_paths();
  for (const Mount& mount : cgroup_mounts()) {
    const std::string hierarchy = mount.v2 ? "" : "memory";
    if (!paths.count(hierarchy) || (!mount.v2 && !mount.options.count("memory"))) continue;
    for (fs::path group = own_directory(mount, paths[hierarchy]);; group = group.parent_path()) {
      note(read_text(group / limit_file("memory", mount.v2)));
      if (group == mount.point || !group.has_relative_path()) break;
    }
  }
  return least;
}

CgroupPool::CgroupPool(bool enabled) {
  if (enabled) sites_ = find_cgroup_sites(nullptr);
  // Two pools of one process must not meet in a group.
  prefix_ = kGroupPrefix + owner_tag() + "-" +
            std::to_string(reinterpret_cast<uintptr_t>(this) >> 4) + "-";
  for (const auto& site : sites_) {
    memory_ = memory_ || site.has("memory");
    pids_ = pids_ || site.has("pids");
  }
}

CgroupPool::~CgroupPool() {
  for (const auto& [limits, groups] : idle_)
    for (const auto& group : groups) remove(*group);
}

CgroupPool::Key CgroupPool::key(const Limits& limits) {
  return {limits.memory_bytes, limits.disk_bytes, limits.pids, limits.cpus};
}

std::unique_ptr<Cgroup> CgroupPool::take(const Limits& limits) {
  if (sites_.empty()) return nullptr;
  auto& idle = idle_[key(limits)];
  if (idle.empty()) return make(limits);
  auto group = std::move(idle.back());
  idle.pop_back();
  return group;
}

std::unique_ptr<Cgroup> CgroupPool::make(const Limits& limits) {
  auto group = std::make_unique<Cgroup>();
  std::string name = prefix_ + std::to_string(next_++);
  for (const auto& site : sites_) {
    fs::path directory = site.directory / name;
    if (mkdir(directory.c_str(), 0755)) throw_errno("make the control group " + directory.string());
    group->directories.push_back(directory);
    limit_group(site, directory, limits);
    Fd procs(open((directory / "cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!procs) throw_errno("open " + (directory / "cgroup.procs").string());
    group->procs.push_back(std::move(procs));
  }
  return group;
}

void CgroupPool::kill(const Cgroup& group) {
  for (size_t i = 0; i < sites_.size(); ++i)
    if (sites_[i].v2) write_file(group.directories[i] / "cgroup.kill", "1");
}

bool CgroupPool::reusable(const Cgroup& group) const {
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (!sites_[i].has("memory")) continue;
    const char* file = sites_[i].v2 ? "memory.current" : "memory.usage_in_bytes";
    std::string usage = read_text(group.directories[i] / file);
    if (std::strtoull(usage.c_str(), nullptr, 10) > kReusableBytes) return false;
  }
  return true;
}

bool CgroupPool::discard(const Cgroup& group) {
  bool done = true;
  for (const auto& directory : group.directories)
    done = (rmdir(directory.c_str()) == 0 || errno == ENOENT) && done;
  return done;
}

void CgroupPool::give_back(const Limits& limits, std::unique_ptr<Cgroup> group) {
  if (!group) return;
  if (!reusable(*group)) return remove(*group);
  idle_[key(limits)].push_back(std::move(group));
}

void CgroupPool::remove(const Cgroup& group) {
  for (const auto& directory : group.directories) rmdir(directory.c_str());
}

}  // namespace espalier::envs::sandbox
