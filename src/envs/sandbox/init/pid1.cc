// The first process of a sandbox: starts, watches, reaps and kills the others on the trainer's
// request. Its end, which is that of the control socket, is the end of everything inside.
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "envs/sandbox/init/pack.h"
#include "envs/sandbox/init/pty.h"
#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kMaxChildren = 64;
constexpr size_t kMaxStrings = 4096;
constexpr int kKillPasses = 100;

struct Child {
  pid_t pid = 0;
  uint32_t ticket = 0;
};

alignas(16) char g_message[wire::kMaxMessageBytes];
char* g_strings[kMaxStrings + 2];
Child g_children[kMaxChildren];
pid_t g_shell = 0;
char g_shell_output[64];  // the name of what the shell's descriptor 1 was at its start
bool g_shell_on_terminal = false;
int g_control = -1;
bool g_root_mode = false;
sock_fprog g_filter;     // for programs, until it is loaded
bool g_holding = false;  // a frozen session's init: the trainer hears of every process that ends

void reply(wire::InitOp op, uint32_t ticket, int error, int value, const char* text = "",
           int fd = -1) {
  wire::InitReply out{};
  out.header = {op, ticket};
  out.error = error;
  out.value = value;
  snprintf(out.text, sizeof out.text, "%s", text);
  if (!send_packet(g_control, &out, sizeof out, &fd, fd < 0 ? 0 : 1)) _exit(0);
}

void read_link(pid_t pid, int fd, char* out, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
  ssize_t n = readlink(path, out, size - 1);
  out[n < 0 ? 0 : n] = 0;
}

/// In the vforked child: memory is shared, so only system calls.
[[noreturn]] void become(const wire::ExecRequest& request, const int* fds, const Pty& pty,
                         const char* cwd, char** argv, char** env, volatile int* error) {
  sigset_t none;
  sigemptyset(&none);
  setsid();
  if (pty.slave >= 0 && !enter_terminal(pty)) goto failed;
  for (uint32_t i = 0; i < request.fd_count; ++i)
    if (dup2(fds[i], request.targets[i]) < 0) goto failed;
  if (request.flags & wire::kExecAsRoot) {
    if (!g_root_mode)
      for (int capability = 0; capability <= CAP_LAST_CAP; ++capability)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  } else if (g_root_mode &&
             (setresgid(wire::kSandboxAgent, wire::kSandboxAgent, wire::kSandboxAgent) ||
              setresuid(wire::kSandboxAgent, wire::kSandboxAgent, wire::kSandboxAgent))) {
    goto failed;
  }
  umask(022);
  if (chdir(cwd)) goto failed;
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvpe(argv[0], argv, env);
failed:
  *error = errno ? errno : EIO;
  _exit(127);
}

Child* free_child() {
  for (Child& child : g_children)
    if (child.pid == 0) return &child;
  return nullptr;
}

void remember_shell(pid_t pid, const int* fds, const Pty& pty) {
  g_shell = pid;
  g_shell_on_terminal = pty.slave >= 0;
  struct stat st;
  if (g_shell_on_terminal)
    snprintf(g_shell_output, sizeof g_shell_output, "%s", pty.name);
  else if (fstat(fds[0], &st) == 0)
    snprintf(g_shell_output, sizeof g_shell_output, "pipe:[%lu]", st.st_ino);
}

/// Loading takes as long as forking a process does, and the inits of copied sessions seldom start
/// another program: so not before the first one.
bool load_filter() {
  if (g_filter.len == 0) return true;
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &g_filter))
    return false;
  g_filter.len = 0;
  return true;
}

void handle_exec(const char* message, size_t size, const int* fds, size_t fd_count) {
  wire::ExecRequest request;
  memcpy(&request, message, sizeof request);
  Child* slot = free_child();
  size_t strings = size_t{request.argv_count} + request.env_count + 1;
  if (!slot || fd_count != request.fd_count || request.argv_count == 0 || strings > kMaxStrings ||
      sizeof request + request.string_bytes != size)
    return reply(wire::InitOp::started, request.header.ticket, E2BIG, 0);
  char* at = g_message + sizeof request;
  const char* cwd = at;
  at += strlen(at) + 1;
  char** argv = g_strings;
  char** env = argv + request.argv_count + 1;
  for (uint32_t i = 0; i < request.argv_count; ++i, at += strlen(at) + 1) argv[i] = at;
  argv[request.argv_count] = nullptr;
  for (uint32_t i = 0; i < request.env_count; ++i, at += strlen(at) + 1) env[i] = at;
  env[request.env_count] = nullptr;
  for (uint32_t i = 0; i < request.env_count; ++i)  // execvpe searches our PATH, not the child's
    if (!strncmp(env[i], "PATH=", 5)) setenv("PATH", env[i] + 5, 1);
  if (!load_filter())
    return reply(wire::InitOp::started, request.header.ticket, errno, 0, "load the seccomp filter");
  Pty pty;
  bool owned_by_agent = g_root_mode && !(request.flags & wire::kExecAsRoot);
  if (request.flags & wire::kExecTerminal &&
      !open_pty(request.terminal, owned_by_agent ? wire::kSandboxAgent : geteuid(), &pty))
    return reply(wire::InitOp::started, request.header.ticket, errno, 0, "open a terminal");
  volatile int error = 0;
  pid_t pid = vfork();
  if (pid == 0) become(request, fds, pty, cwd, argv, env, &error);
  if (pid < 0) error = errno;
  if (pid > 0 && error) waitpid(pid, nullptr, 0);
  if (!error) {
    *slot = {pid, request.header.ticket};
    if (request.flags & wire::kExecShell) remember_shell(pid, fds, pty);
  }
  reply(wire::InitOp::started, request.header.ticket, error, error ? 0 : pid, "", pty.master);
  close_pty(&pty);
}

void handle_put(const char* message, int pack_fd) {
  wire::PutRequest request;
  memcpy(&request, message, sizeof request);
  const char* path = message + sizeof request;
  Failure failure;
  bool done = true;
  if (request.replace) done = remove_tree(AT_FDCWD, path) || failure.set("remove %s", path);
  done = done && (make_directories(AT_FDCWD, path, 0755) || failure.set("mkdir %s", path));
  PackTarget target;
  target.keep_owner = g_root_mode;
  target.dir_fd = done ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  done = done && (target.dir_fd >= 0 || failure.set("open %s", path)) &&
         unpack(pack_fd, target, &failure);
  if (target.dir_fd >= 0) close(target.dir_fd);
  reply(wire::InitOp::done, request.header.ticket, done ? 0 : failure.error, 0, failure.text);
}

bool is_zombie(const char* pid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return true;
  text[n] = 0;
  const char* state = strrchr(text, ')');
  return !state || state[2] == 'Z' || state[2] == 'X';
}

/// Processes beside init and (unless all) the shell; signalled when signal is not 0.
int others(bool all, int signal) {
  DIR* proc = opendir("/proc");
  if (!proc) return 0;
  int count = 0;
  while (dirent* entry = readdir(proc)) {
    if (!isdigit(static_cast<unsigned char>(entry->d_name[0]))) continue;
    pid_t pid = atoi(entry->d_name);
    if (pid == 1 || (!all && pid == g_shell) || is_zombie(entry->d_name)) continue;
    ++count;
    if (signal) kill(pid, signal);
  }
  closedir(proc);
  return count;
}

/// Why the shell could not be written down and started elsewhere; false when it could.
bool shell_is_busy(char* text, size_t size) {
  char path[64], output[64];
  snprintf(path, sizeof path, "/proc/%d/fd", g_shell);
  DIR* dir = g_shell ? opendir(path) : nullptr;
  if (!dir) return snprintf(text, size, "the shell has ended"), true;
  bool busy = false;
  while (dirent* entry = readdir(dir)) {
    if (!isdigit(static_cast<unsigned char>(entry->d_name[0]))) continue;
    int fd = atoi(entry->d_name);
    if (fd <= 2 || fd == 201 || fd >= 250) continue;
    busy = true;
    snprintf(text, size, "the shell holds file descriptor %d open", fd);
  }
  closedir(dir);
  for (int fd = g_shell_on_terminal ? 0 : 1; fd <= 2; ++fd) {
    read_link(g_shell, fd, output, sizeof output);
    if (!strcmp(output, g_shell_output)) continue;
    busy = true;
    snprintf(text, size, "the shell's descriptor %d is redirected", fd);
  }
  if (!busy && g_shell_on_terminal && !waits_for_input(g_shell)) {
    busy = true;
    snprintf(text, size, "the session does not wait for input");
  }
  return busy;
}

void handle_inspect(uint32_t ticket) {
  char text[128] = {0};
  shell_is_busy(text, sizeof text);
  reply(wire::InitOp::done, ticket, 0, others(false, 0), text);
}

void handle_kill(const wire::KillRequest& request) {
  int left = 0;
  if (request.all) {
    kill(-1, SIGKILL);
  } else {
    for (int pass = 0; pass < kKillPasses && (left = others(false, SIGKILL)) > 0; ++pass) {
      timespec pause{0, pass < 10 ? 100'000 : 1'000'000};
      nanosleep(&pause, nullptr);
    }
  }
  reply(wire::InitOp::done, request.header.ticket, 0, left);
}

void reap() {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == g_shell) g_shell = 0;
    if (g_holding) reply(wire::InitOp::reaped, uint32_t(pid), 0, status);
    for (Child& child : g_children) {
      if (child.pid != pid) continue;
      reply(wire::InitOp::exited, child.ticket, 0, status);
      child = {};
    }
  }
}

void handle(size_t size, const int* fds, size_t fd_count) {
  wire::InitHeader header;
  memcpy(&header, g_message, sizeof header);
  switch (header.op) {
    case wire::InitOp::exec:
      handle_exec(g_message, size, fds, fd_count);
      break;
    case wire::InitOp::put:
      handle_put(g_message, fd_count ? fds[0] : -1);
      break;
    case wire::InitOp::inspect:
      handle_inspect(header.ticket);
      break;
    case wire::InitOp::kill:
      handle_kill(*reinterpret_cast<const wire::KillRequest*>(g_message));
      break;
    case wire::InitOp::hold:
      g_holding = true;
      break;
    default:
      _exit(1);
  }
}

}  // namespace

void pid1_loop(int control_fd, const Base& base, const wire::SpawnRequest& request) {
  g_control = control_fd;
  g_root_mode = base.root_mode;
  g_filter = {base.seccomp_length, const_cast<sock_filter*>(base.seccomp)};
  g_shell = request.shell_pid;
  g_shell_on_terminal = request.terminal.columns;
  if (g_shell_on_terminal)
    snprintf(g_shell_output, sizeof g_shell_output, "/dev/pts/0");
  else
    snprintf(g_shell_output, sizeof g_shell_output, "pipe:[%lu]", request.shell_output);
  umask(0);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  for (;;) {
    pollfd wait[2] = {{control_fd, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) _exit(1);
    if (wait[1].revents) {
      signalfd_siginfo info;
      while (read(signals, &info, sizeof info) > 0) {
      }
      reap();
    }
    if (!wait[0].revents) continue;
    int fds[wire::kMaxFds];
    size_t fd_count = 0;
    ssize_t n = receive_packet(control_fd, g_message, sizeof g_message - 1, fds, &fd_count);
    if (n <= 0) _exit(0);
    g_message[n] = 0;
    if (size_t(n) >= sizeof(wire::InitHeader)) handle(size_t(n), fds, fd_count);
    for (size_t i = 0; i < fd_count; ++i) close(fds[i]);
  }
}

}  // namespace espalier::envs::init
