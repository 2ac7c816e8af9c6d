// The processes beside a sandbox's shell, and the files that go in and out.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/shell.h"

namespace espalier::envs::sandbox {
namespace {

constexpr size_t kReadChunk = 64 * 1024;

std::string pack_strings(const std::vector<std::string>& strings) {
  std::string out;
  for (const std::string& text : strings) out.append(text.c_str(), text.size() + 1);
  return out;
}

}  // namespace

std::exception_ptr sandbox_error(const std::string& text) {
  return std::make_exception_ptr(common::SandboxError(text));
}

int64_t microseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
}

int code_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

bool read_available(int fd, size_t reads, const std::function<void(std::string_view)>& take) {
  thread_local char buffer[kReadChunk];
  for (size_t i = 0; i < reads; ++i) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    take({buffer, size_t(n)});
    if (size_t(n) < sizeof buffer) return true;
  }
  return true;
}

std::string exec_message(uint32_t flags, const std::vector<int>& targets, const std::string& cwd,
                         const std::vector<std::string>& argv, const std::vector<std::string>& env,
                         wire::TerminalShape terminal) {
  wire::ExecRequest request{};
  request.header.op = wire::InitOp::exec;
  request.flags = flags;
  request.fd_count = uint32_t(targets.size());
  std::copy(targets.begin(), targets.end(), request.targets);
  request.terminal = terminal;
  request.argv_count = uint32_t(argv.size());
  request.env_count = uint32_t(env.size());
  std::string strings = pack_strings({cwd}) + pack_strings(argv) + pack_strings(env);
  request.string_bytes = uint32_t(strings.size());
  std::string message = bytes_of(request) + strings;
  if (message.size() >= wire::kMaxMessageBytes)
    throw common::SandboxError("exec " + argv.front() + ": arguments and variables of " +
                               std::to_string(message.size()) + " bytes; at most " +
                               std::to_string(wire::kMaxMessageBytes));
  return message;
}

void Sandbox::exec(ExecSpec spec, Deadline deadline, Completion<Observation> done) {
  if (!broken_.empty()) return done(sandbox_error("exec: " + broken_));
  if (spec.argv.empty()) return done(sandbox_error("exec: argv is empty"));
  Pipe output = make_pipe(true, false);
  const bool as_root = spec.as_root || seed_.spec.root;
  uint32_t agent = core_->spawner.outer_uid(as_root ? wire::kSandboxRoot : wire::kSandboxAgent);
  if (core_->spawner.root_mode() && fchown(output.write.get(), agent, agent))
    throw_errno("give a pipe away");
  std::map<std::string, std::string> variables = seed_.spec.variables;
  if (as_root != seed_.spec.root) variables.erase("HOME");  // the session's user's
  auto env = environment_strings(as_root ? "/root" : "/home/agent", {&variables, &spec.variables});
  std::string message =
      exec_message(as_root ? uint32_t{wire::kExecAsRoot} : 0, {1, 2},
                   spec.cwd.empty() ? seed_.spec.workdir : spec.cwd, spec.argv, env);
  auto self = shared_from_this();
  std::string program = spec.argv.front();
  uint32_t ticket =
      send_init(std::move(message), {output.write.get(), output.write.get()},
                [self, program, ticket = next_ticket_](common::Result<wire::InitReply> r) {
                  if (r.ok() && !r.value().error) return;
                  auto found = self->processes_.find(ticket);
                  if (found == self->processes_.end()) return;
                  // As a shell says it: not found, or not executable.
                  int error = r.ok() ? r.value().error : EIO;
                  std::string text = program + ": " + std::strerror(error) + "\n";
                  found->second.buffer.append(text);
                  self->process_ended(ticket, (error == ENOENT ? 127 : 126) << 8);
                });
  if (!broken_.empty()) return done(sandbox_error("exec: " + broken_));
  Process process{
      std::move(done), std::move(output.read), OutputBuffer(seed_.spec.limits.output_bytes),
      Clock::now(),    std::nullopt,           false};
  int fd = process.output.get();
  if (deadline != Deadline::max())
    process.timer = core_->reactor.call_at(deadline, [self, ticket] {
      auto found = self->processes_.find(ticket);
      if (found == self->processes_.end()) return;
      found->second.timed_out = true;
      found->second.timer.reset();
      self->kill_command(0);
    });
  processes_.emplace(ticket, std::move(process));
  core_->reactor.watch(fd, EPOLLIN, [self, ticket, fd](uint32_t) {
    auto found = self->processes_.find(ticket);
    if (found == self->processes_.end() ||
        !read_available(fd, kReadsPerEvent,
                        [&](std::string_view bytes) { found->second.buffer.append(bytes); }))
      self->core_->reactor.unwatch(fd);
  });
}

void Sandbox::process_ended(uint32_t ticket, int wait_status) {
  auto found = processes_.find(ticket);
  if (found == processes_.end()) return;
  Process process = std::move(found->second);
  processes_.erase(found);
  if (process.timer) core_->reactor.cancel(*process.timer);
  core_->reactor.unwatch(process.output.get());
  read_available(process.output.get(), kReadsPerDrain,
                 [&](std::string_view bytes) { process.buffer.append(bytes); });
  Observation observation;
  observation.output_bytes = process.buffer.total_bytes();
  observation.output = process.buffer.take();
  observation.exit_code = code_of(wait_status);
  observation.timed_out = process.timed_out;
  observation.duration_us = microseconds_since(process.started);
  core_->after_delay(
      [done = std::move(process.done), observation = std::move(observation)]() mutable {
        done(std::move(observation));
      });
}

void Sandbox::put(std::string path, bool replace, Fd pack, Completion<common::Done> done) {
  if (!broken_.empty()) return done(sandbox_error("write " + path + ": " + broken_));
  wire::PutRequest request{};
  request.header.op = wire::InitOp::put;
  request.replace = replace;
  request.path_bytes = uint32_t(path.size());
  send_init(bytes_of(request) + path + '\0', {pack.get()},
            [done, path](common::Result<wire::InitReply> r) {
              if (!r.ok()) return done(r.error());
              const wire::InitReply& reply = r.value();
              if (!reply.error) return done(common::Done{});
              done(sandbox_error("write below " + path + ": " + reply.text));
            });
}

void Sandbox::inspect(Completion<Inspection> done) {
  if (!broken_.empty()) return done(sandbox_error("inspect the sandbox: " + broken_));
  wire::InitHeader request{wire::InitOp::inspect, 0};
  send_init(bytes_of(request), {}, [done](common::Result<wire::InitReply> r) {
    if (!r.ok()) return done(r.error());
    done(Inspection{r.value().value, r.value().text});
  });
}

std::optional<std::string> Sandbox::read_file(const std::string& path, size_t max_bytes) const {
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  Fd fd;
  for (int tries = 0; tries < 16 && !fd; ++tries) {
    fd.reset(int(syscall(SYS_openat2, root_.get(), path.c_str(), &how, sizeof how)));
    if (!fd && errno != EAGAIN) break;  // EAGAIN: a rename raced with the walk
  }
  struct stat st;
  if (!fd || fstat(fd.get(), &st) || !S_ISREG(st.st_mode)) return std::nullopt;
  std::string content(std::min(size_t(st.st_size), max_bytes), '\0');
  size_t used = 0;
  while (used < content.size()) {
    ssize_t n = ::read(fd.get(), content.data() + used, content.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    used += size_t(n);
  }
  content.resize(used);
  return content;
}

}  // namespace espalier::envs::sandbox
