#include "app/report/chart.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "app/report/text.h"

namespace espalier::app {
namespace {

constexpr int kLeft = 52, kRight = 14, kTop = 12, kBottom = 40;
constexpr int kColors = 6;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

/// Data to pixels, with the ticks that the axes show.
struct Frame {
  Range x, y;
  std::vector<double> x_ticks, y_ticks;
  double width = 0, height = 0;
  double at_x(double value) const { return kLeft + (value - x.low) / (x.high - x.low) * width; }
  double at_y(double value) const {
    return kTop + height - (value - y.low) / (y.high - y.low) * height;
  }
};

std::string tick_text(double value, Scale scale) {
  if (scale == Scale::percent) return fmt::format("{:.0f}%", value * 100);
  if (scale == Scale::count || std::fabs(value) >= 1e4) return human_count(value);
  return plain_number(std::fabs(value) < 1e-12 ? 0 : value);
}

Frame make_frame(const ChartOptions& options, const std::vector<Series>& series) {
  Frame frame;
  for (const Series& one : series) {
    for (const ChartPoint& point : one.points) {
      frame.x.include(point.x);
      frame.y.include(point.y - point.error);
      frame.y.include(point.y + point.error);
    }
  }
  if (options.y_from_zero || options.y_scale == Scale::percent) frame.y.include(0);
  if (frame.x.high <= frame.x.low) frame.x = {frame.x.low - 0.5, frame.x.high + 0.5};
  double slack = 0.04 * (frame.y.high - frame.y.low);
  if (slack <= 0) slack = std::max(1e-9, 0.1 * std::fabs(frame.y.high));
  frame.y_ticks = round_ticks(frame.y.low, frame.y.high, options.height > 250 ? 6 : 4);
  if (frame.y.low != 0) frame.y.low -= slack;
  if (frame.y.high != 0) frame.y.high += slack;
  frame.y.low = std::min(frame.y.low, frame.y_ticks.front());
  frame.x_ticks = round_ticks(frame.x.low, frame.x.high, options.width > 600 ? 8 : 4);
  frame.width = options.width - kLeft - kRight;
  frame.height = options.height - kTop - kBottom;
  return frame;
}

std::string draw_axes(const ChartOptions& options, const Frame& frame) {
  std::string out;
  const double bottom = kTop + frame.height, right = kLeft + frame.width;
  for (double tick : frame.y_ticks) {
    if (tick > frame.y.high) continue;
    const double y = frame.at_y(tick);
    out += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
        kLeft, right, y, y, kLeft - 7, y + 3.5, tick_text(tick, options.y_scale));
  }
  for (double tick : frame.x_ticks) {
    if (tick > frame.x.high || tick < frame.x.low) continue;
    out += fmt::format(
        "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4}</text>",
        frame.at_x(tick), bottom, bottom + 4, bottom + 17, tick_text(tick, Scale::count));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/>", kLeft,
                     right, bottom);
  return out +
         fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                     (kLeft + right) / 2, options.height - 5, html(options.x_label));
}

std::string draw_line(const Series& series, const Frame& frame) {
  if (!series.line || series.points.size() < 2) return {};
  std::string path;
  for (const ChartPoint& point : series.points)
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", frame.at_x(point.x),
                        frame.at_y(point.y));
  return fmt::format("<path class=\"curve s{}{}{}\" d=\"{}\"/>", series.color % kColors,
                     series.faint ? " faint" : "", series.dashed ? " dashed" : "", path);
}

std::string draw_marks(const ChartOptions& options, const Series& series, const Frame& frame) {
  std::string out;
  if (series.mark == Mark::none && series.points.size() > 1) return out;
  for (const ChartPoint& point : series.points) {
    const double x = frame.at_x(point.x), y = frame.at_y(point.y);
    if (point.error > 0) {
      const double up = frame.at_y(point.y + point.error), down = frame.at_y(point.y - point.error);
      out += fmt::format(
          "<path class=\"bar s{0}\" d=\"M{1:.1f} {2:.1f}V{3:.1f}M{4:.1f} {2:.1f}h8M{4:.1f} "
          "{3:.1f}h8\"/>",
          series.color % kColors, x, up, down, x - 4);
    }
    const bool percents = options.y_scale == Scale::percent;
    std::string tip = series.label + ": " + (percents ? percent(point.y) : plain_number(point.y));
    if (point.error > 0)
      tip += " \u00b1 " + (percents ? percent(point.error) : plain_number(point.error));
    tip += " at " + human_count(point.x);
    const std::string shape =
        series.mark == Mark::diamond
            ? fmt::format("<path d=\"M{:.1f} {:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z\"", x, y - 5.5)
            : fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"", x, y);
    out += fmt::format("{} class=\"mark s{}{}\"><title>{}</title></{}>", shape,
                       series.color % kColors, series.mark == Mark::diamond ? " hollow" : "",
                       html(tip), series.mark == Mark::diamond ? "path" : "circle");
  }
  return out;
}

bool is_finite(const ChartPoint& point) {
  return std::isfinite(point.x) && std::isfinite(point.y) && std::isfinite(point.error);
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int wanted) {
  if (!(high > low)) return {low};
  const double raw = (high - low) / std::max(1, wanted);
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double lead = raw / power;
  const double step = power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
  std::vector<double> ticks;
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  for (double k = first; k <= last; ++k) ticks.push_back(k * step);
  return ticks;
}

std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points) {
  const int count = static_cast<int>(points.size());
  const int half = std::clamp(count / 20, 1, 12);
  std::vector<ChartPoint> result;
  for (int i = 0; i < count; ++i) {
    const int from = std::max(0, i - half), to = std::min(count - 1, i + half);
    double sum = 0;
    for (int j = from; j <= to; ++j) sum += points[j].y;
    result.push_back({points[i].x, sum / (to - from + 1), 0});
  }
  return result;
}

std::string draw_chart(const ChartOptions& options, const std::vector<Series>& all) {
  std::vector<Series> series;
  for (Series one : all) {
    std::erase_if(one.points, [](const ChartPoint& point) { return !is_finite(point); });
    if (!one.points.empty()) series.push_back(std::move(one));
  }
  if (series.empty()) return {};
  const Frame frame = make_frame(options, series);
  std::string out = fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2}\" "
      "preserveAspectRatio=\"xMidYMid meet\">",
      options.width, options.height, html(options.title));
  out += draw_axes(options, frame);
  for (const Series& one : series) out += draw_line(one, frame);
  for (const Series& one : series) out += draw_marks(options, one, frame);
  return out + "</svg>\n";
}

std::string draw_legend(const std::vector<Series>& series) {
  std::string out;
  int shown = 0;
  for (const Series& one : series) {
    if (one.points.empty()) continue;
    ++shown;
    const std::string classes = fmt::format("s{}{}{}", one.color % kColors,
                                            one.faint ? " faint" : "", one.dashed ? " dashed" : "");
    std::string key =
        one.line ? fmt::format("<path class=\"curve {}\" d=\"M1 7H27\"/>", classes) : "";
    if (one.mark == Mark::dot)
      key += fmt::format("<circle class=\"mark {}\" cx=\"14\" cy=\"7\" r=\"4\"/>", classes);
    if (one.mark == Mark::diamond)
      key += fmt::format(
          "<path class=\"mark hollow {}\" d=\"M14 1.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z\"/>", classes);
    out += fmt::format(
        "<li><svg width=\"28\" height=\"14\" viewBox=\"0 0 28 14\" "
        "aria-hidden=\"true\">{}</svg>{}</li>",
        key, html(one.label));
  }
  return shown < 2 ? "" : "<ul class=\"legend\">" + out + "</ul>\n";
}

}  // namespace espalier::app
