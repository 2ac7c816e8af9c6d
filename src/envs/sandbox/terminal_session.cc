#include "envs/sandbox/terminal_session.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/error.h"
#include "envs/sandbox/sandbox_detail.h"

namespace espalier::envs::sandbox {
namespace {

constexpr size_t kReadChunk = 4096;  // what a pty gives at once
constexpr size_t kChunksPerEvent = 4;
constexpr size_t kChunksPerDrain = 64;  // more than a pty and its flip buffers hold
constexpr size_t kMaxUntakenBytes = size_t{16} << 20;
constexpr size_t kMaxRepliesWaiting = size_t{1} << 20;  // a session that asks and never reads

}  // namespace

TerminalModes TerminalModes::of(const Fd& master) {
  TerminalModes modes;
  winsize size{};
  if (tcgetattr(master.get(), &modes.settings) || ioctl(master.get(), TIOCGWINSZ, &size))
    throw_errno("read a terminal's settings");
  modes.size = {size.ws_col, size.ws_row};
  return modes;
}

void TerminalModes::apply(const Fd& master) const {
  winsize window{};
  window.ws_col = static_cast<unsigned short>(size.columns);
  window.ws_row = static_cast<unsigned short>(size.rows);
  if (tcsetattr(master.get(), TCSANOW, &settings) || ioctl(master.get(), TIOCSWINSZ, &window))
    throw_errno("set a terminal's settings");
}

TerminalSession::TerminalSession(Reactor* reactor, Fd master, terminal::Screen screen,
                                 size_t output_limit_bytes)
    : reactor_(reactor),
      master_(std::move(master)),
      screen_(std::move(screen)),
      output_(output_limit_bytes) {
  watch();
}

TerminalSession::~TerminalSession() {
  unwatch();
  if (watching_ && watching_->timer) reactor_->cancel(*watching_->timer);
}

void TerminalSession::watch() {
  if (watched_ || !master_) return;
  watched_ = true;
  reactor_->watch(master_.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); });
}

void TerminalSession::unwatch() {
  if (std::exchange(watched_, false)) reactor_->unwatch(master_.get());
}

// ---- what the session writes ----

/// False when no process holds the terminal open any more.
bool TerminalSession::read_some(size_t reads) {
  char buffer[kReadChunk];
  for (size_t i = 0; i < reads; ++i) {
    ssize_t n = read(master_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    take({buffer, size_t(n)});
  }
  return true;
}

void TerminalSession::take(std::string_view bytes) {
  if (watching_) watching_->last_activity = Clock::now();
  if (Filter filter = filter_) bytes = filter(bytes);  // a copy: it may replace itself
  if (bytes.empty()) return;
  output_.append(bytes);
  screen_.feed(bytes);
  std::string replies = screen_.take_replies();
  if (!replies.empty() && untaken_.size() < kMaxRepliesWaiting) send(replies);
}

void TerminalSession::drain() {
  if (master_) read_some(kChunksPerDrain);
}

void TerminalSession::on_ready(uint32_t events) {
  if (events & EPOLLOUT) flush();
  if (events & ~uint32_t{EPOLLOUT} && !read_some(kChunksPerEvent)) {
    // Watching would report the hang-up for ever; type() looks again.
    unwatch();
  }
}

// ---- what is typed ----

void TerminalSession::continue_from(const TerminalSession& other) {
  screen_ = other.screen_.copy();
  output_ = other.output_;
  untaken_ = other.untaken_;
  flush();
}

void TerminalSession::send(std::string_view bytes) {
  untaken_ += bytes;
  flush();
}

void TerminalSession::flush() {
  size_t written = 0;
  while (written < untaken_.size()) {
    ssize_t n = write(master_.get(), untaken_.data() + written, untaken_.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    written += size_t(n);
  }
  if (written && watching_) watching_->last_activity = Clock::now();
  bool gone = written < untaken_.size() && errno != EAGAIN;
  untaken_.erase(0, gone ? untaken_.size() : written);
  if (watched_) reactor_->rearm(master_.get(), untaken_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void TerminalSession::type(Typing typing, Completion<TerminalView> done) {
  if (untaken_.size() + typing.keys.size() > kMaxUntakenBytes)
    return done(sandbox_error("type " + std::to_string(typing.keys.size()) +
                              " bytes: " + std::to_string(untaken_.size()) +
                              " typed before were not taken yet; at most 16 MiB may wait"));
  auto now = Clock::now();
  watching_ = Watching{std::move(done), now, now + typing.at_most, typing.quiet, now, std::nullopt};
  if (exit_code_) return look();
  watch();
  send(typing.keys);
  set_timer();
}

void TerminalSession::set_timer() {
  Watching& w = *watching_;
  auto when = w.at_latest;
  if (w.quiet.count() > 0) when = std::min(when, w.last_activity + w.quiet);
  w.timer = reactor_->call_at(when, [this] { on_timer(); });
}

void TerminalSession::on_timer() {
  watching_->timer.reset();
  auto now = Clock::now();
  bool quiet = watching_->quiet.count() > 0 && now >= watching_->last_activity + watching_->quiet;
  if (now < watching_->at_latest && !quiet) return set_timer();
  look();
}

void TerminalSession::look() {
  if (!watching_) return;
  drain();
  TerminalView seen = view();
  Watching watching = std::move(*watching_);
  watching_.reset();
  if (watching.timer) reactor_->cancel(*watching.timer);
  seen.duration_us = microseconds_since(watching.started);
  watching.done(std::move(seen));
}

TerminalView TerminalSession::view() {
  TerminalView out;
  out.screen = screen_.text();
  out.cursor_row = screen_.cursor_row();
  out.cursor_column = screen_.cursor_column();
  out.output_bytes = output_.total_bytes();
  out.output = output_.take();
  out.session_ended = exit_code_.has_value();
  out.exit_code = exit_code_.value_or(0);
  return out;
}

void TerminalSession::ended(int exit_code) {
  drain();
  exit_code_ = exit_code;
  look();
}

void TerminalSession::fail(std::exception_ptr error) {
  unwatch();
  if (!watching_) return;
  Watching watching = std::move(*watching_);
  watching_.reset();
  if (watching.timer) reactor_->cancel(*watching.timer);
  watching.done(std::move(error));
}

void TerminalSession::resize(TerminalSize size) {
  screen_.resize(size);
  TerminalModes modes = TerminalModes::of(master_);
  modes.size = size;
  modes.apply(master_);
}

}  // namespace espalier::envs::sandbox
