// The trainer's side of a live fork: a sandbox's session is frozen, and others start with copies of
// it (init/live_fork.h).
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"

namespace espalier::envs::sandbox {
namespace {

// Until its groups change, so that its first command need not wait for that.
constexpr auto kAdoptionPause = std::chrono::milliseconds(1);
constexpr size_t kMaxUnclaimed = 64;  // carriers end as well, and nobody claims them

uint64_t inode(const Fd& fd) {
  struct stat st {};
  return fd && fstat(fd.get(), &st) == 0 ? st.st_ino : 0;
}

}  // namespace

Origin::~Origin() {
  if (!sandbox_) return;
  auto core = sandbox_->core();
  core->post([sandbox = std::move(sandbox_)] { sandbox->kill(nullptr); });
}

void Origin::leave() {
  if (--resting_ == 0) sandbox_->release();
}

void Sandbox::freeze(Completion<FreezeAnswer> done) {
  if (!broken_.empty()) return done(sandbox_error("fork: " + broken_));
  if (shell_status_) return done(FreezeAnswer{wire::kNotCarried, "the session has ended"});
  if (running_ || !processes_.empty() || !command_pending_.empty())
    return done(FreezeAnswer{wire::kBusy, "an operation is in progress"});
  Sandbox& first = first_ ? *first_ : *this;
  if (!std::exchange(first.holding_, true))
    send_packet(first.control_.get(), bytes_of(wire::InitHeader{wire::InitOp::hold, 0}), {});
  wire::FreezeRequest request{};
  request.header.op = wire::SpawnerOp::freeze;
  request.header.id = upper_->id();
  request.outer_pid = outer_pid_;
  request.shell_pid = shell_pid_;
  request.cpu = core_->keeper_processor(upper_->id());
  request.output = inode(output_);
  request.command = inode(command_);
  request.status = inode(status_);
  std::vector<Fd> fds;
  fds.push_back(duplicate(pidfd_));
  auto self = shared_from_this();
  core_->keeper(upper_->id())
      .call(bytes_of(request), std::move(fds), [self, done](common::Result<SpawnerReplyFds> r) {
        if (!r.ok()) return done(r.error());
        done(FreezeAnswer{r.value().value, r.value().text});
      });
}

void Sandbox::thaw(Completion<common::Done> done) {
  core_->keeper(upper_->id())
      .call(wire::SpawnerOp::thaw, upper_->id(), {}, [done](common::Result<SpawnerReplyFds> r) {
        if (!r.ok()) return done(r.error());
        done(common::Done{});
      });
}

void Sandbox::release() {
  if (killed_ || core_->keepers.empty()) return;
  core_->keeper(upper_->id()).call(wire::SpawnerOp::release, upper_->id(), {}, nullptr);
  terminal_.reset();
  for (Fd* fd : {&command_, &output_, &status_}) {
    if (*fd) core_->reactor.unwatch(fd->get());
    fd->reset();
  }
}

void Sandbox::start_copy(const std::shared_ptr<Core>& core, SandboxSeed seed, OriginPtr origin,
                         Completion<std::shared_ptr<Sandbox>> done) {
  std::shared_ptr<Sandbox> sandbox(new Sandbox(core, std::move(seed)));
  const Sandbox& frozen = *origin->sandbox();
  sandbox->depth_ = frozen.depth_ + 1;
  sandbox->shell_pid_ = frozen.shell_pid_;
  sandbox->first_ = frozen.first_ ? frozen.first_ : origin->sandbox();
  sandbox->origin_ = std::move(origin);
  try {
    sandbox->spawn_copy(done);
  } catch (const common::Error&) {
    done(std::current_exception());
  }
}

void Sandbox::spawn_copy(Completion<std::shared_ptr<Sandbox>> done) {
  if (core_->closing) throw common::Cancelled("fork: the backend is closing");
  if (origin_->sandbox()->terminal_) return spawn_terminal_copy(std::move(done));
  Pipe command = make_pipe(false, true), output = make_pipe(true, false),
       status = make_pipe(true, false);
  give_to_user(command, output);
  auto [keepers_end, inits_end] = make_socket_pair();
  std::vector<Fd> fds;
  fds.push_back(duplicate(origin_->sandbox()->pidfd_));
  fds.push_back(std::move(inits_end));
  started_ = std::move(done);
  request_spawn(std::move(fds), shell_pid_, inode(output.read), {});
  try {
    await_start();
    std::vector<Fd> ends;
    ends.push_back(std::move(keepers_end));
    for (const Fd* fd : {&output.write, &command.read, &status.write})
      ends.push_back(duplicate(*fd));
    request_copy(std::move(ends));
    take_pipes(std::move(command), std::move(output), std::move(status));
    watch_descriptors();
  } catch (const common::Error& e) {
    kill(nullptr);
    fail(e.what());
  }
}

void Sandbox::spawn_terminal_copy(Completion<std::shared_ptr<Sandbox>> done) {
  TerminalModes modes = TerminalModes::of(origin_->sandbox()->terminal_->master());
  auto [keepers_end, inits_end] = make_socket_pair();
  std::vector<Fd> fds, ends;
  fds.push_back(duplicate(origin_->sandbox()->pidfd_));
  fds.push_back(std::move(inits_end));
  ends.push_back(std::move(keepers_end));
  started_ = std::move(done);
  request_spawn(std::move(fds), shell_pid_, 0,
                {uint16_t(modes.size.columns), uint16_t(modes.size.rows)});
  await_start();
  request_copy(std::move(ends));
  watch_descriptors();
}

/// What the session wrote is read to the end first: it was frozen before it was copied.
void Sandbox::continue_terminal() {
  TerminalSession& before = *origin_->sandbox()->terminal_;
  before.drain();
  terminal_ =
      std::make_unique<TerminalSession>(&core_->reactor, std::move(copied_terminal_),
                                        before.screen().copy(), seed_.spec.limits.output_bytes);
  terminal_->continue_from(before);
}

void Sandbox::request_copy(std::vector<Fd> fds) {
  uint64_t id = origin_->sandbox()->upper_->id();
  wire::CopyRequest request{};
  request.header.op = wire::SpawnerOp::copy;
  request.header.id = id;
  request.depth = depth_;
  request.cpu = core_->keeper_processor(id);
  // What is rebuilt is not shared with the original: it must not count there.
  if (origin_->sandbox()->terminal_ && cradle_ && cradle_->group)
    for (const Fd& group : cradle_->group->procs) {
      fds.push_back(duplicate(group));
      ++request.group_count;
    }
  auto self = shared_from_this();
  core_->keeper(id).call(
      bytes_of(request), std::move(fds), [self](common::Result<SpawnerReplyFds> r) {
        if (r.ok()) return self->session_copied(pid_t(r.value().value), pid_t(r.value().extra));
        try {
          std::move(r).get();
        } catch (const std::exception& e) {
          self->fail(e.what());
          self->kill(nullptr);
        }
      });
}

void Sandbox::session_copied(pid_t outer_pid, pid_t pid_at_first) {
  outer_pid_ = outer_pid;
  shell_ready_ = true;
  if (!first_ || !cradle_) return;  // gone by now
  core_->reactor.call_at(Clock::now() + kAdoptionPause, [self = shared_from_this()] {
    if (!self->cradle_) return;
    wire::AdoptRequest adopt{};
    adopt.header.op = wire::SpawnerOp::adopt;
    adopt.pid = self->outer_pid_;
    self->cradle_->channel->call(bytes_of(adopt), {}, nullptr);
  });
  auto ended = first_->reaped_.find(pid_at_first);
  if (ended == first_->reaped_.end()) {
    first_->copies_[pid_at_first] = weak_from_this();
  } else {
    int status = ended->second;
    first_->reaped_.erase(ended);
    shell_ended(status);
  }
  maybe_started();
}

void Sandbox::session_reaped(pid_t pid, int wait_status) {
  auto found = copies_.find(pid);
  if (found == copies_.end()) {
    if (reaped_.size() >= kMaxUnclaimed) reaped_.clear();
    reaped_[pid] = wait_status;
    return;
  }
  auto sandbox = found->second.lock();
  copies_.erase(found);
  if (sandbox) sandbox->shell_ended(wait_status);
}

}  // namespace espalier::envs::sandbox
