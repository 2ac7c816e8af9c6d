// Nothing outlives its owner: what a killed process held is gone, at once or after the next start.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "envs/sandbox/cgroups.h"
#include "envs/sandbox/leftovers.h"
#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

namespace fs = std::filesystem;

size_t mounts_here() {
  std::ifstream file("/proc/self/mountinfo");
  return size_t(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
}

/// A child process that holds live environments until it is killed.
class Holder {
 public:
  Holder() {
    // Orphans come to this process: whatever outlives the child is seen here.
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    int tell[2];
    if (pipe2(tell, O_CLOEXEC)) return;
    pid_ = fork();
    if (pid_ == 0) hold(tell[1]);
    close(tell[1]);
    char byte = 0;
    holds_ = read(tell[0], &byte, 1) == 1 && byte == 'y';
    close(tell[0]);
  }
  ~Holder() {
    kill_and_reap();
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
  }
  bool holds() const { return holds_; }
  pid_t pid() const { return pid_; }

  /// kill -9; returns how many descendants ended. Hangs, and fails by the runner's time limit, when
  /// one lives on.
  int kill_and_reap() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    int gone = 0;
    while (waitpid(-1, nullptr, 0) > 0) ++gone;
    return gone;
  }
  /// Control groups and temporary directories of the child that are there.
  std::vector<fs::path> traces() const {
    std::vector<fs::path> all;
    auto collect = [&](const fs::path& directory, const std::string& part) {
      std::error_code ignored;
      for (const auto& entry : fs::directory_iterator(directory, ignored))
        if (entry.path().filename().string().find(part) != std::string::npos)
          all.push_back(entry.path());
    };
    for (const auto& site : sandbox::find_cgroup_sites(nullptr))
      collect(site.directory, sandbox::kGroupPrefix + std::to_string(pid_) + "-");
    collect(fs::temp_directory_path(), "." + std::to_string(pid_) + ".");
    return all;
  }

 private:
  [[noreturn]] static void hold(int tell) {
    char result = 'n';
    try {
      common::TempDir snapshots("espalier-leaks-test");
      SandboxOptions options;
      options.snapshot_dir = snapshots.path();
      auto backend = make_sandbox_backend(options);
      std::vector<EnvironmentPtr> all;
      for (int i = 0; i < 2; ++i)
        all.push_back(common::await<EnvironmentPtr>(
            [&](auto done) { backend->create({}, std::move(done)); }));
      run(*all[0], "x=1; echo $x > f");
      all.push_back(fork_of(*all[0]).child);
      snapshot_of(*all[0]);
      run(*all[1], "(setsid sh -c '(trap \"\" HUP TERM; sleep 1000) & ' &)");
      all[2]->run("sleep 1000", Deadline::max(), [](auto) {});
      result = 'y';
      (void)!write(tell, &result, 1);
      for (;;) pause();
    } catch (const common::Error&) {
      (void)!write(tell, &result, 1);
      _exit(0);
    }
  }

  pid_t pid_ = -1;
  bool holds_ = false;
};

TEST(Leaks, AKilledProcessLeavesOnlyWhatASweepRemoves) {
  const size_t mounts = mounts_here();
  Holder holder;
  if (!holder.holds()) GTEST_SKIP() << "no sandboxes on this machine";
  const size_t held = holder.traces().size();
  EXPECT_GE(held, 1u) << "its snapshots' directory at least";
  // What lives is not swept.
  sweep_leftovers(true);
  EXPECT_EQ(holder.traces().size(), held);

  EXPECT_GE(holder.kill_and_reap(), 2) << "itself and the supervisor, if not more";
  EXPECT_EQ(mounts_here(), mounts);
  size_t listed = 0;
  for (const Leftover& leftover : sweep_leftovers(false)) {
    const std::string name = leftover.path.filename();
    if (name.find(std::to_string(holder.pid())) != std::string::npos) ++listed;
  }
  EXPECT_EQ(listed, held) << "listed, and still there";
  EXPECT_EQ(holder.traces().size(), held);
  for (const Leftover& leftover : sweep_leftovers(true))
    EXPECT_EQ(leftover.failure, "") << leftover.path;
  EXPECT_EQ(holder.traces().size(), 0u);
}

TEST(Leaks, TheNextStartSweeps) {
  Holder holder;
  if (!holder.holds()) GTEST_SKIP() << "no sandboxes on this machine";
  holder.kill_and_reap();
  EXPECT_GE(holder.traces().size(), 1u);
  make_sandbox_backend({}).reset();
  EXPECT_EQ(holder.traces().size(), 0u);
}

TEST(Leaks, AnOwnerIsToldFromAnotherWithItsProcessId) {
  const std::string own = sandbox::owner_tag();
  EXPECT_FALSE(sandbox::owner_is_gone(own));
  EXPECT_FALSE(sandbox::owner_is_gone(own + "-7-12")) << "a group's name goes on";
  int pid = 0;
  unsigned long long start = 0, space = 0;
  ASSERT_EQ(std::sscanf(own.c_str(), "%d-%llu-%llu", &pid, &start, &space), 3);
  auto tag = [](int pid, unsigned long long start, unsigned long long space) {
    return std::to_string(pid) + "-" + std::to_string(start) + "-" + std::to_string(space);
  };
  EXPECT_TRUE(sandbox::owner_is_gone(tag(pid, start - 1, space))) << "the process id used again";
  EXPECT_TRUE(sandbox::owner_is_gone(tag(1 << 30, start, space))) << "no such process";
  EXPECT_FALSE(sandbox::owner_is_gone(tag(1 << 30, start, space + 1)))
      << "of another process id namespace: it cannot be seen from here";
  for (const char* other : {"", "probe", "12", "12-13", "trainer", "-1-2-3"})
    EXPECT_FALSE(sandbox::owner_is_gone(other)) << other;
  // A dead process that nobody has reaped holds nothing any more.
  pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  std::ifstream file("/proc/" + std::to_string(child) + "/stat");
  std::string stat((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  const std::string childs = tag(child, std::stoull(field), space);
  EXPECT_FALSE(sandbox::owner_is_gone(childs));
  kill(child, SIGKILL);
  siginfo_t info{};
  waitid(P_PID, id_t(child), &info, WEXITED | WNOWAIT);
  EXPECT_TRUE(sandbox::owner_is_gone(childs));
  waitpid(child, nullptr, 0);
}

TEST(Leaks, ClosingABackendLeavesNothing) {
  auto groups = [] {
    size_t count = 0;
    std::error_code ignored;
    for (const auto& site : sandbox::find_cgroup_sites(nullptr))
      for (const auto& entry : fs::directory_iterator(site.directory, ignored))
        if (entry.path().filename().string().starts_with(sandbox::kGroupPrefix +
                                                         sandbox::owner_tag()))
          ++count;
    return count;
  };
  auto descriptors = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const std::string marker = "sleep 54321." + std::to_string(getpid());
  const auto before = descriptors();
  const size_t mounts = mounts_here();
  try {
    auto backend = make_sandbox_backend({});
    auto environment =
        common::await<EnvironmentPtr>([&](auto done) { backend->create({}, std::move(done)); });
    auto child = fork_of(*environment).child;
    run(*environment, marker + " & : > f");
    run(*child, "head -c 8M /dev/zero > big; " + marker + " & :");
  } catch (const common::SandboxError& error) {
    GTEST_SKIP() << "no sandboxes on this machine: " << error.what();
  }
  EXPECT_EQ(groups(), 0u);
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(mounts_here(), mounts);
  EXPECT_TRUE(host_processes(marker).empty());
}

}  // namespace
}  // namespace espalier::envs::testing
