#include "app/progress.h"

#include <spdlog/fmt/fmt.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "app/report/text.h"

namespace espalier::app {
namespace {

constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr auto kPlainEvery = std::chrono::seconds(10);
constexpr int kDefaultWidth = 80, kMaxBar = 32, kMinBar = 8;
constexpr const char* kWipe = "\r\033[K";

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string_view value = environment(name);
    if (value.empty()) continue;
    return value.find("UTF-8") != value.npos || value.find("utf8") != value.npos;
  }
  return false;
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefaultWidth;
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string rate_text(double per_second, const std::string& unit) {
  if (per_second >= 1000) return human_count(std::round(per_second)) + " " + unit + "/s";
  if (per_second >= 1) return fmt::format("{:.1f} {}/s", per_second, unit);
  if (per_second * 60 >= 1) return fmt::format("{:.1f} {}/min", per_second * 60, unit);
  if (per_second > 0) return fmt::format("{:.1f} {}/h", per_second * 3600, unit);
  return {};
}

std::string bar_text(double share, int width, const ProgressStyle& style) {
  const int full = static_cast<int>(std::floor(share * width));
  std::string done, rest;
  for (int i = 0; i < full; ++i) done += style.utf8 ? "\u2501" : "=";
  for (int i = full; i < width; ++i) rest += style.utf8 ? "\u2500" : "-";
  if (!style.color) return style.utf8 ? done + rest : "[" + done + rest + "]";
  return "\033[32m" + done + "\033[2;39m" + rest + "\033[0m";
}

}  // namespace

std::string render_progress(const ProgressState& state, const ProgressStyle& style) {
  const bool bounded = state.total > 0;
  const double share = bounded ? std::clamp(state.done / state.total, 0.0, 1.0) : 0;
  const double rate = state.elapsed_s > 0 ? (state.done - state.before) / state.elapsed_s : 0;
  std::string tail = human_count(state.done);
  if (bounded) tail += "/" + human_count(state.total);
  tail += " " + state.unit;
  if (bounded) tail += fmt::format(" {:.0f}%", std::floor(share * 100));
  const std::string speed = rate_text(rate, state.unit);
  if (!speed.empty()) tail += "  " + speed;
  if (bounded && rate > 0 && share < 1)
    tail += "  ETA " + clock_time((state.total - state.done) / rate);
  if (share >= 1) tail += "  " + clock_time(state.elapsed_s);
  if (!state.status.empty()) tail += "  " + shorten(printable(state.status), 200);
  const std::string label = shorten(printable(state.label), 30);
  if (style.width <= 0) return label + "  " + tail;

  const int room = style.width - 1;
  const int used = static_cast<int>(columns_of(label) + columns_of(tail)) + 4;
  const int bar = std::min(kMaxBar, room - used - (style.utf8 || style.color ? 0 : 2));
  if (bounded && bar >= kMinBar) return label + "  " + bar_text(share, bar, style) + "  " + tail;
  return shorten(label + "  " + tail, static_cast<size_t>(std::max(1, room)));
}

Progress::Progress(std::string label, double total, std::string unit, std::FILE* stream)
    : stream_(stream), start_(Clock::now()), last_draw_(start_) {
  state_.label = std::move(label);
  state_.unit = std::move(unit);
  state_.total = total;
  live_ = isatty(fileno(stream)) == 1 && environment("TERM") != "dumb" && environment("TERM") != "";
  color_ = live_ && environment("NO_COLOR").empty();
  utf8_ = locale_is_utf8();
}

Progress::~Progress() { clear(); }

void Progress::update(double done, const std::string& status) {
  if (finished_) return;
  state_.done = done;
  state_.status = status;
  if (!live_ && state_.total > 0 && done >= state_.total) return;  // finish() writes that line
  const auto now = Clock::now();
  const bool first = live_ && !drawn_;
  if (!first && now - last_draw_ < (live_ ? Clock::duration(kRedrawEvery) : kPlainEvery)) return;
  last_draw_ = now;
  draw(false);
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs(kWipe, stream_);
  std::fflush(stream_);
  drawn_ = false;
}

void Progress::finish(const std::string& final_status) {
  if (finished_) return;
  if (!final_status.empty()) state_.status = final_status;
  draw(true);
  finished_ = true;
  drawn_ = false;
}

void Progress::draw(bool last) {
  state_.elapsed_s = std::chrono::duration<double>(Clock::now() - start_).count();
  const ProgressStyle style{live_ ? terminal_width(stream_) : 0, color_, utf8_};
  const std::string line = render_progress(state_, style);
  std::fputs((live_ ? kWipe + line : line).c_str(), stream_);
  if (last || !live_) std::fputc('\n', stream_);
  std::fflush(stream_);
  drawn_ = live_ && !last;
}

}  // namespace espalier::app
