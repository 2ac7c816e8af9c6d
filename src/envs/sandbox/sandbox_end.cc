// How a sandbox ends: by itself, by failing or by being killed.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"
#include "envs/sandbox/sandbox.h"
#include "envs/sandbox/sandbox_detail.h"

namespace espalier::envs::sandbox {
namespace {

constexpr auto kGroupKillPause = std::chrono::seconds(3);  // for init, once it was killed

}  // namespace

/// The sandbox can do nothing more: everything that waits for it fails.
void Sandbox::fail(const std::string& why) {
  if (broken_.empty()) broken_ = why;
  auto self = shared_from_this();
  auto error = killed_ ? std::make_exception_ptr(common::Cancelled("the sandbox was closed"))
                       : sandbox_error(why);
  if (start_timer_) core_->reactor.cancel(*std::exchange(start_timer_, std::nullopt));
  if (terminal_) terminal_->fail(error);
  if (failed_) std::exchange(failed_, nullptr)(error);
  if (running_ && !running_->finishing) {
    if (running_->timer) core_->reactor.cancel(*running_->timer);
    Running running = std::move(*running_);
    running_.reset();
    if (running.done) running.done(error);
    if (running.answered) running.answered(error);
  }
  auto processes = std::move(processes_);
  processes_.clear();
  for (auto& [ticket, process] : processes) {
    if (process.timer) core_->reactor.cancel(*process.timer);
    core_->reactor.unwatch(process.output.get());
    process.done(error);
  }
  auto answers = std::move(answers_);
  answers_.clear();
  for (auto& [ticket, answer] : answers) answer(error);
  if (started_) std::exchange(started_, nullptr)(sandbox_error("start a sandbox: " + why));
}

void Sandbox::kill(std::function<void()> gone) {
  if (gone) gone_ = std::move(gone);
  if (!core_->sandboxes.count(shared_from_this())) {  // reaped already
    if (gone_) std::exchange(gone_, nullptr)();
    return;
  }
  if (killed_) return;
  killed_ = true;
  if (pidfd_) syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  core_->reactor.call_at(Clock::now() + kGroupKillPause, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self && self->cradle_ && self->cradle_->group)
      self->core_->cgroups.kill(*self->cradle_->group);
  });
  fail("the sandbox was closed");
}

void Sandbox::on_reaped() {
  auto self = shared_from_this();
  if (control_) on_control(0);  // why it ended may still be unread
  fail("the sandbox has ended");
  for (Fd* fd : {&control_, &command_, &output_, &status_, &pidfd_}) {
    if (*fd) core_->reactor.unwatch(fd->get());
    fd->reset();
  }
  terminal_.reset();
  if (killed_) root_.reset();
  if (network_) core_->reactor.unwatch(network_->ready_fd());
  network_.reset();
  if (shares_networks()) core_->networks.give_back(depth_, std::move(isolated_network_));
  isolated_network_.reset();
  core_->cradles.give_back(seed_.spec.limits, std::move(cradle_));
  origin_.reset();
  first_.reset();
  core_->sandboxes.erase(self);
  if (gone_) std::exchange(gone_, nullptr)();
}

}  // namespace espalier::envs::sandbox
