// A progress bar for commands: one redrawn line on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

namespace espalier::app {

/// What a progress line shows. total ≤ 0: unknown (no bar, share or ETA).
struct ProgressState {
  std::string label, unit, status;
  double done = 0, total = 0, elapsed_s = 0;
  double before = 0;  // done before this process began; not part of the rate
};

struct ProgressStyle {
  int width = 80;  // columns of the terminal; 0: no bar and no limit
  bool color = false;
  bool utf8 = false;
};

/// One line without its end; never wider than style.width - 1 columns.
std::string render_progress(const ProgressState& state, const ProgressStyle& style);

/// On a terminal the line is redrawn at most ten times a second; on anything else (or TERM=dumb) a
/// plain line is written at most every ten seconds. NO_COLOR turns colours off. The destructor
/// wipes an unfinished bar, so nothing is left behind after Ctrl-C or an error. Thread contract:
/// one owner.
class Progress {
 public:
  Progress(std::string label, double total, std::string unit, std::FILE* stream = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// What an earlier process had done already: the rate counts from here.
  void start_from(double done) { state_.before = done; }
  void update(double done, const std::string& status = {});
  /// Wipes the bar so that something else can be printed; the next update draws it again.
  void clear();
  /// Leaves one final line behind. Later updates are ignored.
  void finish(const std::string& final_status = {});

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool last);

  ProgressState state_;
  std::FILE* stream_;
  bool live_, color_, utf8_;
  bool drawn_ = false, finished_ = false;
  Clock::time_point start_, last_draw_;
};

}  // namespace espalier::app
