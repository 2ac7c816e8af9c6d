// Line charts as inline SVG: no script, coloured by the page's style sheet (classes s0 … s5).
#pragma once

#include <string>
#include <vector>

namespace espalier::app {

struct ChartPoint {
  double x = 0, y = 0;
  double error = 0;  // half length of an error bar; 0: none
};

enum class Mark { none, dot, diamond };

struct Series {
  std::string label;  // for the legend and the points' tooltips; untrusted text
  int color = 0;
  bool line = true;
  bool faint = false;  // raw data behind its smoothed curve
  bool dashed = false;
  Mark mark = Mark::none;
  std::vector<ChartPoint> points;  // by x
};

enum class Scale { number, count, percent };

struct ChartOptions {
  std::string title;  // accessible name; untrusted text
  std::string x_label;
  Scale y_scale = Scale::number;
  bool y_from_zero = false;
  int width = 1040, height = 340;
};

/// The <svg> element; series without points are left out. Empty string when there is nothing to
/// draw.
std::string draw_chart(const ChartOptions& options, const std::vector<Series>& series);

/// HTML legend of the series that have points; empty for fewer than two.
std::string draw_legend(const std::vector<Series>& series);

/// Mean over a centred window of about a tenth of the points (at least 3, at most 25), cut off at
/// the ends.
std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points);

/// About `wanted` round numbers (1, 2, 5 × 10^k apart) covering [low, high].
std::vector<double> round_ticks(double low, double high, int wanted);

}  // namespace espalier::app
