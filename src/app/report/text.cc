#include "app/report/text.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace espalier::app {
namespace {

constexpr std::string_view kMinus = "\u2212";

struct Decoded {
  uint32_t point = 0;
  size_t size = 0;  // 0: invalid at this byte
};

/// One code point of strict UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
Decoded decode(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < size) return {};
  uint32_t point = lead & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    point = (point << 6) | (byte(i) & 0x3Fu);
  }
  const uint32_t smallest = size == 4 ? 0x10000 : size == 3 ? 0x800 : 0x80;
  if (point < smallest || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return {};
  return {point, size};
}

/// Characters that change how their neighbours show: direction marks, zero widths, tags.
bool deceives(uint32_t point) {
  return point == 0xAD || point == 0x61C || point == 0x180E ||
         (point >= 0x200B && point <= 0x200F) || (point >= 0x2028 && point <= 0x202E) ||
         (point >= 0x2060 && point <= 0x206F) || point == 0xFEFF || (point & 0xFFFE) == 0xFFFE ||
         (point >= 0xFFF0 && point <= 0xFFFB) || (point >= 0xFDD0 && point <= 0xFDEF) ||
         (point >= 0xE0000 && point <= 0xE0FFF);
}

bool is_wide(uint32_t point) {
  return (point >= 0x1100 && point <= 0x115F) || (point >= 0x2E80 && point <= 0xA4CF) ||
         (point >= 0xAC00 && point <= 0xD7A3) || (point >= 0xF900 && point <= 0xFAFF) ||
         (point >= 0xFE30 && point <= 0xFE6F) || (point >= 0xFF00 && point <= 0xFF60) ||
         (point >= 0x1F300 && point <= 0x1FAFF) || (point >= 0x20000 && point <= 0x3FFFD);
}

void append_control_picture(std::string& out, uint32_t point) {
  const uint32_t picture = point == 0x7F ? 0x2421 : 0x2400 + point;
  out += static_cast<char>(0xE2);
  out += static_cast<char>(0x80 | ((picture >> 6) & 0x3F));
  out += static_cast<char>(0x80 | (picture & 0x3F));
}

std::string with_true_minus(std::string number) {
  if (!number.empty() && number[0] == '-') number.replace(0, 1, kMinus);
  return number;
}

std::string trim_zeros(std::string number) {
  if (number.find('.') == std::string::npos) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number;
}

}  // namespace

std::string printable(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Decoded next = decode(bytes);
    if (next.size == 0) {
      out += fmt::format("\\x{:02X}", static_cast<uint8_t>(bytes[0]));
    } else if (next.point == '\n' || next.point == '\t') {
      out += bytes[0];
    } else if (next.point < 0x20 || next.point == 0x7F) {
      append_control_picture(out, next.point);
    } else if ((next.point >= 0x80 && next.point < 0xA0) || deceives(next.point)) {
      out += fmt::format("\\u{{{:04X}}}", next.point);
    } else {
      out += bytes.substr(0, next.size);
    }
    bytes.remove_prefix(std::max<size_t>(1, next.size));
  }
  return out;
}

std::string html(std::string_view bytes) {
  std::string out;
  for (char c : printable(bytes)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

size_t columns_of(std::string_view text) {
  size_t columns = 0;
  while (!text.empty()) {
    const Decoded next = decode(text);
    columns += is_wide(next.point) ? 2 : 1;
    text.remove_prefix(std::max<size_t>(1, next.size));
  }
  return columns;
}

std::string shorten(std::string_view text, size_t columns) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  std::string line(text.substr(0, text.find('\n')));
  if (line.size() < text.size()) line += " \u21b5";
  std::replace(line.begin(), line.end(), '\t', ' ');
  if (columns_of(line) <= columns) return line;
  std::string out;
  size_t used = 1;  // the ellipsis
  std::string_view rest = line;
  while (!rest.empty()) {
    const Decoded next = decode(rest);
    const size_t size = std::max<size_t>(1, next.size);
    used += is_wide(next.point) ? 2 : 1;
    if (used > columns) break;
    out += rest.substr(0, size);
    rest.remove_prefix(size);
  }
  return out + "\u2026";
}

std::string head_and_tail(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  const size_t head = bytes * 2 / 3, tail = bytes - head;
  return fmt::format("{}\n[\u2026 {} bytes left out \u2026]\n{}", text.substr(0, head),
                     exact_count(static_cast<double>(text.size() - bytes)),
                     text.substr(text.size() - tail));
}

std::string human_count(double value) {
  const double size = std::fabs(value);
  static constexpr std::pair<double, const char*> kScales[] = {
      {1e12, " T"}, {1e9, " G"}, {1e6, " M"}, {1e4, " k"}};
  for (const auto& [scale, suffix] : kScales) {
    if (size < scale) continue;
    const double divisor = scale == 1e4 ? 1e3 : scale;
    const int digits = size / divisor >= 100 ? 1 : 2;
    return with_true_minus(trim_zeros(fmt::format("{:.{}f}", value / divisor, digits))) + suffix;
  }
  return exact_count(value);
}

std::string exact_count(double value) {
  const bool whole = std::fabs(value - std::round(value)) < 1e-9;
  std::string digits = fmt::format("{:.{}f}", std::fabs(value), whole ? 0 : 2);
  const size_t point = std::min(digits.find('.'), digits.size());
  for (size_t at = point; at > 3; at -= 3) digits.insert(at - 3, ",");
  return (value < 0 ? std::string(kMinus) : "") + digits;
}

std::string human_seconds(double seconds) {
  if (!(seconds >= 0)) return "\u2013";
  if (seconds < 0.0995) return fmt::format("{:.1f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string percent(double share, int digits) {
  return with_true_minus(fmt::format("{:.{}f} %", share * 100, digits));
}

std::string signed_number(double value, int digits) {
  std::string text = fmt::format("{:.{}f}", std::fabs(value), digits);
  if (text.find_first_not_of("0.") == std::string::npos) return text;
  return (value < 0 ? std::string(kMinus) : "+") + text;
}

std::string plain_number(double value) { return with_true_minus(fmt::format("{:.4g}", value)); }

}  // namespace espalier::app
