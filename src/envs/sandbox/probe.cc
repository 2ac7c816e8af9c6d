#include "envs/sandbox/probe.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>

#include "common/files.h"
#include "common/result.h"
#include "envs/sandbox/backend.h"
#include "envs/sandbox/cgroups.h"
#include "envs/sandbox/network.h"

namespace espalier::envs {
namespace {

constexpr int kIsolation =
    CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;

/// Runs `attempt` in a child process; it returns 0 or an errno.
int in_child(const std::function<int()>& attempt) {
  const pid_t child = fork();
  if (child < 0) return errno;
  if (child == 0) _exit(attempt());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

int errno_unless(bool ok) { return ok ? 0 : errno; }

bool write_text(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text));
  close(fd);
  return ok;
}

/// Enters user and mount namespaces as their root, as the sandbox's supervisor does.
int enter_namespaces(int more) {
  char users[48], groups[48];
  std::snprintf(users, sizeof users, "0 %u 1", geteuid());
  std::snprintf(groups, sizeof groups, "0 %u 1", getegid());
  if (unshare(CLONE_NEWUSER | more) != 0) return errno;
  write_text("/proc/self/setgroups", "deny");
  return errno_unless(write_text("/proc/self/uid_map", users) &&
                      write_text("/proc/self/gid_map", groups));
}

int try_overlay() {
  if (const int error = enter_namespaces(CLONE_NEWNS)) return error;
  if (mount("tmpfs", "/tmp", "tmpfs", 0, nullptr) != 0) return errno;
  for (const char* name : {"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"}) {
    if (mkdir(name, 0755) != 0) return errno;
  }
  return errno_unless(
      mount("overlay", "/tmp/merged", "overlay", 0,
            "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr") == 0);
}

int try_seccomp() {
  const uint32_t action = SECCOMP_RET_ERRNO;
  return errno_unless(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
}

Capability tried(const std::string& name, int error, const std::string& detail,
                 const std::string& fix) {
  Capability capability{name, error == 0, true, detail, ""};
  if (error != 0) {
    capability.detail = std::string("refused: ") + std::strerror(error);
    capability.fix = fix;
  }
  return capability;
}

Capability mode() {
  const bool root = geteuid() == 0;
  return {"mode", true, false,
          root ? "root: the sandbox's users are shifted away from the host's"
               : "rootless: one user id inside; no cgroup limits unless delegated",
          ""};
}

Capability kernel() {
  utsname name{};
  uname(&name);
  int major = 0, minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  const bool enough = major > 5 || (major == 5 && minor >= 15);
  return {"kernel", enough, true, name.release, enough ? "" : "a kernel of 5.15 or newer"};
}

/// What holds in place of a controller that cannot be used.
std::string weaker(const std::string& missing) {
  if (missing.starts_with("memory"))
    return missing + " (weaker: RLIMIT_DATA limits each process, not the sandbox)";
  if (missing.starts_with("pids")) return missing + " (instead: RLIMIT_NPROC, as good)";
  return missing + " (no limit on processor time)";
}

Capability cgroups() {
  std::vector<std::string> missing;
  std::string detail, fix;
  for (const sandbox::CgroupSite& site : sandbox::find_cgroup_sites(&missing)) {
    detail += (detail.empty() ? "" : "; ") + site.controllers + (site.v2 ? " (v2, " : " (v1, ") +
              site.directory.string() + ")";
  }
  if (detail.empty()) detail = "none usable: limits by rlimits alone, which are weaker";
  for (const std::string& line : missing) fix += (fix.empty() ? "" : "; ") + weaker(line);
  if (!fix.empty())
    fix =
        "run as root, or delegate a cgroup (systemd-run --user --scope -p Delegate=yes …). "
        "Missing: " +
        fix;
  return {"cgroups", missing.empty(), false, detail, fix};
}

Capability network() {
  const std::string why = sandbox::why_no_network();
  return {"public network", why.empty(), false,
          why.empty() ? "slirp4netns, for tasks that ask and env.network: true" : "none", why};
}

/// The whole thing: a sandbox that answers a command.
Capability whole_sandbox() {
  Capability capability{"sandbox", false, true, "", ""};
  try {
    const common::TempDir scratch("espalier-probe");
    SandboxOptions options;
    options.snapshot_dir = scratch.path();
    const std::unique_ptr<Backend> backend = make_sandbox_backend(options);
    const auto start = Clock::now();
    const EnvironmentPtr environment =
        common::await<EnvironmentPtr>([&](auto done) { backend->create({}, std::move(done)); });
    const Observation seen = common::await<Observation>([&](auto done) {
      environment->run("echo ready", Clock::now() + std::chrono::seconds(10), std::move(done));
    });
    const std::chrono::duration<double, std::milli> spent = Clock::now() - start;
    capability.available = seen.output == "ready\n";
    char text[96];
    std::snprintf(text, sizeof text, "started and answered in %.1f ms", spent.count());
    capability.detail =
        capability.available ? text : "answered '" + seen.output + "' to `echo ready`";
  } catch (const std::exception& error) {
    capability.detail = error.what();
    capability.fix = "see the lines above";
  }
  return capability;
}

}  // namespace

std::vector<Capability> probe() {
  const std::string sysctls =
      "as root: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 "
      "kernel.apparmor_restrict_unprivileged_userns=0 (whichever exist)";
  std::vector<Capability> all = {kernel(), mode()};
  all.push_back(tried("user namespaces", in_child([] { return enter_namespaces(0); }),
                      "may be made", sysctls));
  all.push_back(tried("other namespaces", in_child([] { return enter_namespaces(kIsolation); }),
                      "mount, pid, ipc, uts, net, cgroup",
                      "a kernel built with these namespaces; in a container: --privileged"));
  all.push_back(tried("overlay", in_child(try_overlay), "mounts in a user namespace over tmpfs",
                      "modprobe overlay; a kernel of 5.15 or newer"));
  all.push_back(tried("seccomp", try_seccomp(), "filters may refuse calls",
                      "a kernel built with CONFIG_SECCOMP_FILTER"));
  all.push_back(cgroups());
  all.push_back(network());
  all.push_back(whole_sandbox());
  return all;
}

}  // namespace espalier::envs
