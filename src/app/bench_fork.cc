#include "app/bench_fork.h"

#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <thread>

#include "app/bench_figures.h"
#include "app/progress.h"
#include "app/session.h"
#include "common/error.h"
#include "common/files.h"
#include "common/stop.h"
#include "envs/container/backend.h"

namespace espalier::app {
namespace {

using Json = nlohmann::json;

constexpr int kKeptStates = 80;
constexpr int kForksOfOneParent = 8;  // then a fresh one: as deep as an episode forks
constexpr int kShareOfEngine = 2;     // an engine's round is a few hundred times as dear
constexpr auto kRateTime = std::chrono::seconds(3);
constexpr size_t kStateMegabytes = 64;  // of the large snapshot
const std::vector<std::string> kPrefix = {"mkdir -p a/b", "cd a/b",
                                          "for i in 1 2 3 4 5 6 7 8; do echo $i > f$i; done",
                                          "x=42", "cat f1 f2 f3 | sort -r > sorted"};

envs::Observation run(envs::Environment& environment, const std::string& command) {
  return common::await<envs::Observation>([&](auto done) {
    environment.run(command, envs::Clock::now() + std::chrono::seconds(60), std::move(done));
  });
}

/// Kilobytes of the machine's memory that are in use and cannot be had back at once.
double used_kb() {
  std::ifstream file("/proc/meminfo");
  double total = 0, available = 0, value = 0;
  for (std::string name, rest; file >> name >> value && std::getline(file, rest);) {
    if (name == "MemTotal:") total = value;
    if (name == "MemAvailable:") available = value;
  }
  return total - available;
}

/// Confines this thread, and all that it starts, to the first `count` of its cores while it lives.
class Cores {
 public:
  explicit Cores(int count) {
    sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t some;
    CPU_ZERO(&some);
    for (int cpu = 0; cpu < CPU_SETSIZE && count > 0; ++cpu) {
      if (!CPU_ISSET(cpu, &before_)) continue;
      CPU_SET(cpu, &some);
      --count;
    }
    sched_setaffinity(0, sizeof some, &some);
  }
  ~Cores() { sched_setaffinity(0, sizeof before_, &before_); }
  Cores(const Cores&) = delete;
  Cores& operator=(const Cores&) = delete;
  static int available() {
    cpu_set_t all;
    return sched_getaffinity(0, sizeof all, &all) == 0 ? CPU_COUNT(&all) : 1;
  }

 private:
  cpu_set_t before_{};
};

/// One run of the benchmark. Thread contract: one owner; rate() uses threads of its own.
class Measurement {
 public:
  explicit Measurement(const ForkBench& bench) : bench_(bench) {}

  void fork_clean();
  void fork_dirty();
  void cold_start();
  void commands();
  void snapshots();
  void rate();
  void memory();
  void python();
  void engine();

  Json take() {
    figures_["kinds"] = kinds_;
    return std::move(figures_);
  }

 private:
  std::unique_ptr<envs::Backend> new_backend() {
    return make_backend(common::Config{}, scratch_.path());
  }
  static envs::EnvironmentPtr create(envs::Backend& backend, const envs::EnvironmentSpec& spec) {
    return common::await<envs::EnvironmentPtr>(
        [&](auto done) { backend.create(spec, std::move(done)); });
  }
  envs::EnvironmentPtr fork(envs::Environment& parent) {
    envs::Fork fork = common::await<envs::Fork>([&](auto done) { parent.fork(std::move(done)); });
    ++kinds_[envs::to_string(fork.kind)];
    return std::move(fork.child);
  }
  /// Milliseconds until the child has answered; the parent answers too, unmeasured.
  double timed_fork(envs::Environment& parent) {
    envs::EnvironmentPtr child;
    const double ms = milliseconds([&] {
      child = fork(parent);
      run(*child, ":");
    });
    run(parent, ":");
    return ms;
  }
  std::vector<double> dirty_forks(const envs::EnvironmentSpec& spec, const std::string& command);
  double forks_per_second(int cores);
  double snapshot_and_open(envs::Backend& writer, envs::Backend& reader,
                           envs::Environment& environment);
  /// Calls work(i) for each round until interrupted.
  template <class Work>
  void rounds(const char* title, int count, Work work) {
    Progress bar(fmt::format("bench fork: {}", title), count, "rounds");
    for (int i = 0; i < count && !common::stop_requested(); ++i) {
      work(i);
      bar.update(i + 1);
    }
  }
  int few() const { return std::max(5, bench_.repetitions / 5); }

  const ForkBench bench_;
  common::TempDir scratch_{"espalier-bench"};
  std::map<std::string, int> kinds_;
  Json figures_;
};

/// After a turn that wrote one file; and again where nothing has happened since the last fork.
void Measurement::fork_clean() {
  const auto backend = new_backend();
  std::vector<double> forks, again;
  envs::EnvironmentPtr parent;
  rounds("clean", bench_.repetitions, [&](int i) {
    if (i % kForksOfOneParent == 0) parent = create(*backend, {});
    run(*parent, fmt::format("x={}; echo $x > f", i));
    forks.push_back(timed_fork(*parent));
    again.push_back(timed_fork(*parent));
  });
  figures_["fork_ms"] = spread(forks);
  figures_["fork_again_ms"] = spread(again);
  const bool live = kinds_.size() == 1 && kinds_.count("live");
  figures_["live_fork_ms"] = live ? spread(forks) : Json();
  if (!live) figures_["live_fork_ms_why"] = "not every fork was live: see kinds and fork_ms";
}

std::vector<double> Measurement::dirty_forks(const envs::EnvironmentSpec& spec,
                                             const std::string& command) {
  const auto backend = new_backend();
  std::vector<double> all;
  rounds("dirty", few(), [&](int) {
    envs::EnvironmentPtr parent = create(*backend, spec);
    const envs::Observation seen = run(*parent, command);
    if (seen.exit_code != 0)
      throw common::SandboxError("bench fork: " + command + ": " + seen.output);
    all.push_back(timed_fork(*parent));
  });
  return all;
}

void Measurement::fork_dirty() {
  envs::EnvironmentSpec spec;
  spec.limits.memory_bytes = size_t{512} << 20;
  spec.limits.disk_bytes = size_t{256} << 20;
  figures_["dirty_100mb_ms"] = spread(dirty_forks(spec, "head -c 100M /dev/zero > big"));
  figures_["dirty_10k_files_ms"] = spread(dirty_forks(spec, "seq 1 10000 | xargs touch"));
}

/// Until the first command has been answered; beside it, what a fork saves: the same start with the
/// commands before the branch executed again.
void Measurement::cold_start() {
  const auto backend = new_backend();
  std::vector<double> cold, again;
  rounds("cold start", bench_.repetitions, [&](int) {
    envs::EnvironmentPtr environment;
    cold.push_back(milliseconds([&] {
      environment = create(*backend, {});
      run(*environment, ":");
    }));
    environment.reset();
    again.push_back(milliseconds([&] {
      environment = create(*backend, {});
      for (const std::string& command : kPrefix) run(*environment, command);
      run(*environment, ":");
    }));
  });
  figures_["cold_start_ms"] = spread(cold);
  figures_["reexecute_ms"] = spread(again);
}

void Measurement::commands() {
  const auto backend = new_backend();
  const envs::EnvironmentPtr environment = create(*backend, {});
  std::vector<double> builtin, external;
  rounds("commands", bench_.repetitions * 4, [&](int) {
    builtin.push_back(milliseconds([&] { run(*environment, ":"); }));
    external.push_back(milliseconds([&] { run(*environment, "/bin/true"); }));
  });
  figures_["command_round_trip_ms"] = {{"builtin", spread(builtin)},
                                       {"bin_true", spread(external)}};
}

/// Milliseconds from the state in one backend to a command's answer in another.
double Measurement::snapshot_and_open(envs::Backend&, envs::Backend& reader,
                                      envs::Environment& environment) {
  envs::EnvironmentPtr opened;
  return milliseconds([&] {
    const auto id =
        common::await<envs::SnapshotId>([&](auto done) { environment.snapshot(std::move(done)); });
    opened =
        common::await<envs::EnvironmentPtr>([&](auto done) { reader.open(id, std::move(done)); });
    run(*opened, ":");
  });
}

/// The reader is a second backend, whose supervisor, layers and caches are those of another
/// process.
void Measurement::snapshots() {
  const auto writer = new_backend(), reader = new_backend();
  std::vector<double> small, large;
  rounds("snapshots", few(), [&](int i) {
    const envs::EnvironmentPtr environment = create(*writer, {});
    for (const std::string& command : kPrefix) run(*environment, command);
    run(*environment, fmt::format("echo {} > unique", i));
    small.push_back(snapshot_and_open(*writer, *reader, *environment));
  });
  envs::EnvironmentSpec spec;
  spec.limits.disk_bytes = (kStateMegabytes * 2) << 20;
  rounds("large snapshots", 5, [&](int i) {
    const envs::EnvironmentPtr environment = create(*writer, spec);
    // Programs and libraries: neither zeros nor noise.
    run(*environment, fmt::format("cat /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so* 2>/dev/null | "
                                  "head -c {}M > big; echo {} >> big",
                                  kStateMegabytes, i));
    large.push_back(snapshot_and_open(*writer, *reader, *environment));
  });
  figures_["snapshot_open_ms"] = spread(small);
  figures_["snapshot_open_64mb_ms"] = spread(large);
  if (small.empty() || large.empty()) return;
  const double more_ms = figures_["snapshot_open_64mb_ms"]["median"].get<double>() -
                         figures_["snapshot_open_ms"]["median"].get<double>();
  figures_["snapshot_open_mb_per_s"] = more_ms > 0 ? double(kStateMegabytes) * 1000 / more_ms : 0;
}

/// Forks whose child has answered, several at a time from parents that rest, with every process of
/// the backend on these cores.
double Measurement::forks_per_second(int cores) {
  const Cores confined(cores);
  const auto backend = new_backend();
  std::vector<envs::EnvironmentPtr> parents;
  for (int t = 0; t < cores * 2; ++t) parents.push_back(create(*backend, {}));
  std::atomic<int> forks{0};
  std::vector<std::thread> threads;
  const auto start = std::chrono::steady_clock::now();
  for (const envs::EnvironmentPtr& parent : parents)
    threads.emplace_back([&] {
      while (std::chrono::steady_clock::now() - start < kRateTime) {
        const envs::EnvironmentPtr child =
            common::await<envs::Fork>([&](auto done) { parent->fork(std::move(done)); }).child;
        run(*child, ":");
        ++forks;
      }
    });
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return forks / seconds.count();
}

void Measurement::rate() {
  Progress bar("bench fork: rate", 2, "runs");
  figures_["forks_per_s"] = {{"1", forks_per_second(1)}, {"2", nullptr}};
  bar.update(1);
  if (common::stop_requested()) return;
  if (Cores::available() < 2) {
    figures_["forks_per_s_why"] = "one core only";
    return;
  }
  figures_["forks_per_s"]["2"] = forks_per_second(2);
}

/// What the machine holds for forks in which nothing has run yet, kept for a later branch: all of
/// one state, and each of another.
void Measurement::memory() {
  const auto backend = new_backend();
  envs::EnvironmentPtr parent = create(*backend, {});
  run(*parent, "x=1; echo $x > f");
  fork(*parent).reset();
  std::vector<envs::EnvironmentPtr> kept;
  double before = used_kb();
  rounds("memory", bench_.kept, [&](int) { kept.push_back(fork(*parent)); });
  if (kept.empty()) return;
  figures_["kb_per_live_fork"] = (used_kb() - before) / double(kept.size());
  figures_["kept_forks"] = kept.size();
  // All of them are environments still.
  for (const envs::EnvironmentPtr& child : {std::ref(kept.front()), std::ref(kept.back())}) {
    if (run(*child, "echo $x").output != "1\n")
      throw common::SandboxError("bench fork: a kept fork lost its state");
  }
  kept.clear();
  before = used_kb();
  rounds("memory", kKeptStates, [&](int i) {
    if (i % kForksOfOneParent == 0) kept.push_back(std::exchange(parent, create(*backend, {})));
    run(*parent, fmt::format("x={}", i));
    kept.push_back(fork(*parent));
  });
  figures_["kb_per_kept_state"] = (used_kb() - before) / kKeptStates;
}

/// Types a line and waits until the screen shows what it must answer.
void type_until(envs::Environment& environment, const std::string& line, const std::string& shown) {
  const auto until = envs::Clock::now() + std::chrono::seconds(60);
  envs::Typing typing;
  typing.keys = line + "\n";
  typing.quiet = std::chrono::milliseconds(1);
  while (envs::Clock::now() < until) {
    const auto view = common::await<envs::TerminalView>(
        [&](auto done) { environment.type(typing, std::move(done)); });
    if (view.screen.find(shown) != std::string::npos) return;
    if (view.session_ended) break;
    typing.keys.clear();
  }
  throw common::SandboxError("bench fork: the session did not answer '" + line + "'");
}

/// A session that is a Python process with a gibibyte of memory, on a terminal.
void Measurement::python() {
  figures_["python_1gb_fork_ms"] = nullptr;
  try {
    const auto backend = new_backend();
    envs::EnvironmentSpec spec;
    spec.session = {"/usr/bin/python3", "-q"};
    spec.terminal.emplace();
    spec.limits.memory_bytes = size_t{4} << 30;
    const envs::EnvironmentPtr parent = create(*backend, spec);
    type_until(*parent, "x = b'x' * (1 << 30); print('fil' + 'led')", "filled");
    std::vector<double> forks;
    rounds("python", few(), [&](int i) {
      type_until(*parent, fmt::format("y = {}; print('round' + str(y))", i),
                 fmt::format("round{}", i));
      forks.push_back(milliseconds([&] {
        const envs::EnvironmentPtr child = fork(*parent);
        type_until(*child, "print('child' + str(y) + x[:1].decode())", fmt::format("child{}x", i));
      }));
    });
    figures_["python_1gb_fork_ms"] = spread(forks);
  } catch (const common::Error& error) {
    figures_["python_1gb_fork_ms_why"] = error.what();
  }
}

void Measurement::engine() {
  figures_["engine_commit_run_exec_ms"] = nullptr;
  figures_["ratio_engine"] = nullptr;
  envs::ContainerOptions options;
  options.image = bench_.engine_image;
  try {
    const envs::EngineTimings timings =
        envs::time_commit_run_exec(options, std::max(1, bench_.repetitions / kShareOfEngine));
    const Json engine = spread(timings.commit_run_exec_ms);
    figures_["engine"] = timings.engine;
    figures_["engine_commit_run_exec_ms"] = engine;
    const Json live = figures_.value("live_fork_ms", Json());
    if (live.is_object())
      figures_["ratio_engine"] = engine["median"].get<double>() / live["median"].get<double>();
  } catch (const common::Error& error) {
    figures_["engine_commit_run_exec_ms_why"] = error.what();
  }
}

struct Part {
  const char* name;
  void (Measurement::*measure)();
};
constexpr Part kParts[] = {
    {"clean", &Measurement::fork_clean},   {"dirty", &Measurement::fork_dirty},
    {"cold", &Measurement::cold_start},    {"commands", &Measurement::commands},
    {"snapshot", &Measurement::snapshots}, {"rate", &Measurement::rate},
    {"memory", &Measurement::memory},      {"python", &Measurement::python},
    {"engine", &Measurement::engine}};

}  // namespace

const std::vector<std::string>& fork_bench_parts() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Part& part : kParts) all.emplace_back(part.name);
    return all;
  }();
  return names;
}

Json bench_fork(const ForkBench& bench) {
  Measurement measurement(bench);
  for (const Part& part : kParts) {
    const bool wanted = bench.only.empty() || std::count(bench.only.begin(), bench.only.end(),
                                                         std::string(part.name)) > 0;
    if (wanted && !common::stop_requested()) (measurement.*part.measure)();
  }
  Json figures = measurement.take();
  figures["n"] = bench.repetitions;
  return figures;
}

}  // namespace espalier::app
