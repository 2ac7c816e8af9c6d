#include "envs/sandbox/sandbox.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/shell.h"

namespace espalier::envs::sandbox {
namespace {

constexpr int kKillAttempts = 10;  // of the command's processes, before the shell is killed too
constexpr auto kKillPause = std::chrono::milliseconds(30);
constexpr auto kBackstop = std::chrono::seconds(3);  // for init, once told to kill the shell
constexpr auto kStartTimeout = std::chrono::seconds(30);
constexpr auto kQueryTimeout = std::chrono::seconds(5);
constexpr size_t kMaxStatusBytes = 8 << 20;

}  // namespace

Sandbox::Sandbox(std::shared_ptr<Core> core, SandboxSeed seed)
    : core_(std::move(core)),
      seed_(std::move(seed)),
      output_buffer_(seed_.spec.limits.output_bytes) {}

Sandbox::~Sandbox() = default;

void Sandbox::start(const std::shared_ptr<Core>& core, SandboxSeed seed,
                    Completion<std::shared_ptr<Sandbox>> done) {
  std::shared_ptr<Sandbox> sandbox(new Sandbox(core, std::move(seed)));
  try {
    sandbox->spawn(done);
  } catch (const common::Error&) {
    done(std::current_exception());
  }
}

void Sandbox::spawn(Completion<std::shared_ptr<Sandbox>> done) {
  if (core_->closing) throw common::Cancelled("start a sandbox: the backend is closing");
  if (!seed_.spec.session.empty() && !seed_.spec.terminal)
    throw common::SandboxError("start " + seed_.spec.session.front() +
                               " as the session: only a terminal session can be a program of its "
                               "own; without a terminal it is bash");
  if (seed_.spec.terminal) terminal::check_size(*seed_.spec.terminal);
  started_ = std::move(done);
  request_spawn({}, 0, 0, {});
  try {
    if (seed_.spec.terminal)
      start_terminal();
    else
      start_shell();
    watch_descriptors();
  } catch (const common::Error& e) {
    kill(nullptr);
    fail(e.what());
  }
}

void Sandbox::request_spawn(std::vector<Fd> more, int32_t shell_pid, uint64_t shell_output,
                            wire::TerminalShape shape) {
  const Limits& limits = seed_.spec.limits;
  upper_ = core_->new_layer();
  cradle_ = core_->cradles.take(
      limits, shell_pid ? core_->keeper_processor(origin_->sandbox()->upper_->id()) : -1);
  wire::SpawnRequest request{};
  request.header.op = wire::SpawnerOp::spawn;
  request.header.id = upper_->id();
  request.upper_bytes = limits.disk_bytes;
  request.upper_inodes = limits.disk_inodes;
  request.data_limit = core_->cgroups.limits_memory() ? 0 : limits.memory_bytes;
  request.process_limit = core_->process_limit(limits);
  request.network = seed_.spec.network;
  if (shares_networks()) isolated_network_ = core_->networks.take(depth_);
  request.reuse_network = static_cast<bool>(isolated_network_);
  request.layer_count = uint32_t(seed_.layers.size());
  request.leave_out_empty = seed_.leave_out_empty;
  request.own_root = seed_.image_layers > 0;
  request.depth = depth_;
  request.shell_pid = shell_pid;
  request.shell_output = shell_output;
  request.terminal = shape;
  request.cpu = cradle_->processor;
  request.root = seed_.spec.root;
  std::string message = bytes_of(request);
  for (const LayerPtr& layer : seed_.layers) message += bytes_of(uint64_t{layer->id()});
  auto [ours, theirs] = make_socket_pair();
  control_ = std::move(ours);
  if (isolated_network_) more.insert(more.begin(), duplicate(isolated_network_));
  more.insert(more.begin(), std::move(theirs));
  core_->sandboxes.insert(shared_from_this());
  auto self = shared_from_this();
  cradle_->channel->call(std::move(message), std::move(more),
                         [self](common::Result<SpawnerReplyFds> r) {
                           if (r.ok()) return self->started_with(std::move(r.value()));
                           try {
                             std::move(r).get();
                           } catch (const std::exception& e) {
                             self->fail(e.what());
                           }
                           self->on_reaped();
                         });
}

/// Where the kernel counts its processes by user namespace it has one of its own, and so its
/// network.
bool Sandbox::shares_networks() const {
  return !seed_.spec.network && !core_->process_limit(seed_.spec.limits);
}

/// Everything the shell needs is sent ahead: it waits in the socket and the pipe until init is
/// there.
void Sandbox::start_shell() {
  Pipe command = make_pipe(false, true), output = make_pipe(true, false),
       status = make_pipe(true, false);
  const EnvironmentSpec& spec = seed_.spec;
  std::vector<int> fds = {output.write.get(), command.read.get(), status.write.get()};
  std::vector<int> targets = {1, kShellCommandFd, kShellStatusFd};
  Fd state;
  if (!seed_.restore.empty()) {
    state = make_memory_file("shell-state", seed_.restore);
    fds.push_back(state.get());
    targets.push_back(kShellStateFd);
  }
  auto env = environment_strings(spec.root ? "/root" : "/home/agent", {&spec.variables});
  uint32_t flags = wire::kExecShell | (spec.root ? uint32_t{wire::kExecAsRoot} : 0);
  std::string message =
      exec_message(flags, targets, seed_.restore.empty() ? spec.workdir : "/", shell_argv(), env);
  give_to_user(command, output);
  shell_ticket_ = send_init(std::move(message), fds, [this](common::Result<wire::InitReply> r) {
    if (r.ok() && r.value().error)
      return fail("start bash in " + seed_.spec.workdir + ": " + std::strerror(r.value().error));
    if (!r.ok()) return;
    shell_pid_ = r.value().value;
    maybe_started();
  });
  take_pipes(std::move(command), std::move(output), std::move(status));
  running_.emplace();
  running_->mode = Mode::command;
  running_->started = Clock::now();
  auto self = shared_from_this();
  running_->done = [self](common::Result<Observation> r) {
    self->shell_ready_ = r.ok() && !r.value().shell_exited;
    if (r.ok() && r.value().shell_exited) return self->fail("the shell ended at its start");
    self->maybe_started();
  };
  await_start();
  send_line(shell_start_line(!seed_.restore.empty()));
}

/// Programs reopen these by /dev/stdout; bash reopens its command pipe by /dev/fd.
void Sandbox::give_to_user(const Pipe& command, const Pipe& output) const {
  uint32_t user =
      core_->spawner.outer_uid(seed_.spec.root ? wire::kSandboxRoot : wire::kSandboxAgent);
  for (int fd : {command.read.get(), output.write.get()})
    if (fchown(fd, user, core_->spawner.root_mode() ? user : getegid()))
      throw_errno("give a pipe to the sandbox's user");
}

void Sandbox::take_pipes(Pipe command, Pipe output, Pipe status) {
  command_ = std::move(command.write);
  output_ = std::move(output.read);
  status_ = std::move(status.read);
}

void Sandbox::await_start() {
  auto self = shared_from_this();
  start_timer_ = core_->reactor.call_at(Clock::now() + kStartTimeout, [self] {
    self->start_timer_.reset();
    self->fail("the sandbox did not answer within 30 s of its start");
    self->kill(nullptr);
  });
}

void Sandbox::watch_descriptors() {
  auto self = shared_from_this();
  core_->reactor.watch(control_.get(), EPOLLIN,
                       [self](uint32_t events) { self->on_control(events); });
  if (seed_.spec.terminal) return;
  core_->reactor.watch(output_.get(), EPOLLIN,
                       [self](uint32_t events) { self->on_output(events); });
  core_->reactor.watch(status_.get(), EPOLLIN,
                       [self](uint32_t events) { self->on_status(events); });
  core_->reactor.watch(command_.get(), 0, [self](uint32_t events) {
    if (events & EPOLLERR) return self->abandon_command();
    if (events & EPOLLOUT) self->flush_command();
  });
}

void Sandbox::started_with(SpawnerReplyFds reply) {
  std::vector<Fd>& fds = reply.fds;
  if (fds.size() < 2) return fail("the supervisor's answer lacks descriptors");
  pidfd_ = std::move(fds[0]);
  root_ = std::move(fds[1]);
  if (fds.size() > 2) isolated_network_ = std::move(fds[2]);
  left_out_empty_ = reply.value;
  if (left_out_empty_) seed_.layers.erase(seed_.layers.begin());
  auto self = shared_from_this();
  core_->reactor.watch(pidfd_.get(), EPOLLIN, [self](uint32_t) { self->on_reaped(); });
  if (killed_) syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  if (seed_.spec.network) connect_network();
  maybe_started();
}

void Sandbox::maybe_started() {
  if (!started_ || !shell_ready_ || !shell_pid_ || !pidfd_) return;
  if (seed_.spec.network && !network_up_) return;
  if (seed_.spec.terminal && !terminal_) {  // a copy's
    if (!copied_terminal_) return;
    // The original has been closed meanwhile, and all that lives in its process namespace with it.
    if (!origin_ || !origin_->sandbox() || !origin_->sandbox()->terminal_) return kill(nullptr);
    continue_terminal();
  }
  if (start_timer_) core_->reactor.cancel(*std::exchange(start_timer_, std::nullopt));
  output_buffer_.take();
  last_exit_code_ = seed_.last_exit_code;
  core_->flattener->consider(seed_);
  if (shares_networks() && cradle_ && !core_->keepers.empty())
    core_->networks.prepare(depth_ + 1, *cradle_->channel);
  std::exchange(started_, nullptr)(shared_from_this());
}

// ---- commands ----

void Sandbox::run(std::string command, Deadline deadline, Completion<Observation> done) {
  if (!broken_.empty()) return done(sandbox_error("run a command: " + broken_));
  if (seed_.spec.terminal)
    return done(sandbox_error("run a command: the session has a terminal; type() is its way in"));
  if (shell_status_) return done(sandbox_error("run a command: the session's shell has ended"));
  running_.emplace();
  running_->mode = Mode::command;
  running_->done = std::move(done);
  running_->started = Clock::now();
  auto self = shared_from_this();
  if (deadline != Deadline::max())
    running_->timer = core_->reactor.call_at(deadline, [self] { self->on_deadline(); });
  send_line(shell_command_line(command, last_exit_code_));
}

void Sandbox::query(std::string text, Completion<std::string> done) {
  if (!broken_.empty()) return done(sandbox_error("ask the shell: " + broken_));
  running_.emplace();
  running_->mode = Mode::query;
  running_->answered = std::move(done);
  running_->started = Clock::now();
  auto self = shared_from_this();
  running_->timer = core_->reactor.call_at(Clock::now() + kQueryTimeout, [self] {
    auto answered = std::move(self->running_->answered);
    self->running_.reset();
    answered(std::make_exception_ptr(common::NotForkable("the shell does not answer")));
  });
  send_line(shell_query_line(text));
}

void Sandbox::interrupt() {
  if (terminal_) terminal_->look();
  if (!running_ || running_->mode != Mode::command || running_->timed_out) return;
  if (running_->timer) core_->reactor.cancel(*running_->timer);
  on_deadline();
}

void Sandbox::send_line(std::string line) {
  command_pending_ += line;
  flush_command();
}

void Sandbox::flush_command() {
  while (!command_pending_.empty()) {
    ssize_t n = write(command_.get(), command_pending_.data(), command_pending_.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      core_->reactor.rearm(command_.get(), EPOLLOUT);
      return;
    }
    if (n < 0) return abandon_command();
    command_pending_.erase(0, size_t(n));
  }
  core_->reactor.rearm(command_.get(), 0);
}

/// The shell is gone: its exit is reported by init.
void Sandbox::abandon_command() {
  command_pending_.clear();
  core_->reactor.unwatch(command_.get());
}

void Sandbox::on_output(uint32_t) {
  if (!read_available(output_.get(), kReadsPerEvent,
                      [this](std::string_view bytes) { output_buffer_.append(bytes); }))
    core_->reactor.unwatch(output_.get());
}

void Sandbox::drain_output() {
  read_available(output_.get(), kReadsPerDrain,
                 [this](std::string_view bytes) { output_buffer_.append(bytes); });
}

void Sandbox::on_status(uint32_t) {
  bool open = read_available(status_.get(), kReadsPerEvent,
                             [this](std::string_view bytes) { status_text_ += bytes; });
  if (!open) core_->reactor.unwatch(status_.get());
  if (status_text_.size() > kMaxStatusBytes) status_text_.clear();
  on_status_text();
}

void Sandbox::on_status_text() {
  if (!running_ || running_->finishing) return;
  if (running_->mode == Mode::query) {
    size_t end = status_text_.rfind(kQueryEnd);
    if (end == std::string::npos) return;
    std::string answer = status_text_.substr(0, end);
    status_text_.clear();
    if (running_->timer) core_->reactor.cancel(*running_->timer);
    auto answered = std::move(running_->answered);
    running_.reset();
    answered(std::move(answer));
    return;
  }
  size_t end = status_text_.find('\n');
  if (end == std::string::npos) return;
  int code = std::atoi(status_text_.c_str());
  status_text_.clear();
  finish(code & 255, false);
}

void Sandbox::finish(int exit_code, bool shell_exited) {
  if (running_->timer) core_->reactor.cancel(*running_->timer);
  running_->finishing = true;
  drain_output();
  Observation observation;
  observation.output_bytes = output_buffer_.total_bytes();
  observation.output = output_buffer_.take();
  observation.exit_code = exit_code;
  observation.timed_out = running_->timed_out;
  observation.shell_exited = shell_exited;
  observation.duration_us = microseconds_since(running_->started);
  last_exit_code_ = exit_code;
  auto self = shared_from_this();
  core_->after_delay([self, observation = std::move(observation)]() mutable {
    if (!self->running_) return;
    auto done = std::move(self->running_->done);
    self->running_.reset();
    done(std::move(observation));
  });
}

void Sandbox::shell_ended(int wait_status) {
  shell_status_ = code_of(wait_status);
  if (start_timer_) return fail("the session ended at its start");
  if (terminal_) terminal_->ended(*shell_status_);
  if (!running_ || running_->finishing) return;
  if (running_->mode == Mode::command) return finish(*shell_status_, true);
  if (running_->timer) core_->reactor.cancel(*running_->timer);
  auto answered = std::move(running_->answered);
  running_.reset();
  answered(std::make_exception_ptr(common::NotForkable("the session's shell has ended")));
}

void Sandbox::on_deadline() {
  if (!running_ || running_->finishing) return;
  running_->timed_out = true;
  running_->timer.reset();
  kill_command(0);
}

/// Kills the command's processes, again and again while the shell starts more; where the shell does
/// not come back within its grace, the shell too; where init does not manage that, the sandbox.
void Sandbox::kill_command(int attempt) {
  bool whole_shell = attempt >= kKillAttempts;
  wire::KillRequest request{};
  request.header.op = wire::InitOp::kill;
  request.all = whole_shell;
  auto self = shared_from_this();
  send_init(bytes_of(request), {}, [](common::Result<wire::InitReply>) {});
  if (!running_) return;
  auto wait = whole_shell ? Clock::duration(kBackstop) : Clock::duration(kKillPause);
  running_->timer = core_->reactor.call_at(Clock::now() + wait, [self, attempt, whole_shell] {
    if (!self->running_ || self->running_->finishing) return;
    self->running_->timer.reset();
    if (!whole_shell) return self->kill_command(attempt + 1);
    self->kill(nullptr);
    self->fail("the command could not be killed");
  });
}

// ---- init ----

uint32_t Sandbox::send_init(std::string message, std::vector<int> fds, Answer answer) {
  wire::InitHeader header;
  std::memcpy(&header, message.data(), sizeof header);
  header.ticket = next_ticket_++;
  std::memcpy(message.data(), &header, sizeof header);
  answers_.emplace(header.ticket, std::move(answer));
  try {
    if (!send_packet(control_.get(), message, fds))
      throw common::SandboxError("the sandbox's init does not take requests");
  } catch (const common::Error& e) {
    fail(e.what());
  }
  return header.ticket;
}

void Sandbox::on_control(uint32_t) {
  Packet packet;
  auto self = shared_from_this();
  while (control_ && receive_packet(control_.get(), &packet)) {
    if (packet.closed) {
      core_->reactor.unwatch(control_.get());
      fail("the sandbox was killed, perhaps for want of memory");
      return;
    }
    wire::InitReply reply;
    if (packet.bytes.size() != sizeof reply) continue;
    std::memcpy(&reply, packet.bytes.data(), sizeof reply);
    if (!packet.fds.empty()) received_fd_ = std::move(packet.fds.front());
    packet.fds.clear();
    on_init_reply(reply);
    received_fd_.reset();
  }
}

void Sandbox::on_init_reply(const wire::InitReply& reply) {
  uint32_t ticket = reply.header.ticket;
  if (reply.header.op == wire::InitOp::failed)
    return fail("set up the sandbox: " +
                std::string(reply.text, strnlen(reply.text, sizeof reply.text)));
  if (reply.header.op == wire::InitOp::exited) {
    if (ticket == shell_ticket_) return shell_ended(reply.value);
    return process_ended(ticket, reply.value);
  }
  if (reply.header.op == wire::InitOp::terminal) {
    copied_terminal_ = std::move(received_fd_);
    return maybe_started();
  }
  if (reply.header.op == wire::InitOp::reaped) return session_reaped(pid_t(ticket), reply.value);
  auto found = answers_.find(ticket);
  if (found == answers_.end()) return;
  Answer answer = std::move(found->second);
  answers_.erase(found);
  answer(reply);
}

}  // namespace espalier::envs::sandbox
