#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

#include "common/config_table.h"

namespace espalier::common::config {
namespace {

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;

std::string describe(const Seen& seen) {
  switch (seen.kind) {
    case Seen::Kind::nothing:
      return "nothing";
    case Seen::Kind::plain:
      return "'" + seen.text + "'";
    case Seen::Kind::quoted:
      return "the text \"" + seen.text + "\"";
    case Seen::Kind::list:
      return "a list";
    case Seen::Kind::map:
      return "a map";
  }
  return "";
}

std::string and_allowed(const Key& key) {
  const std::string allowed = allowed_values(key);
  return allowed.empty() ? "" : "; allowed: " + allowed;
}

std::string wrong_type(const Key& key, const char* expected, const Seen& seen) {
  return std::string("expected ") + expected + ", got " + describe(seen) + and_allowed(key);
}

std::string out_of_range(const Key& key, const std::string& text) {
  return text + " is out of range" + and_allowed(key);
}

bool in_range(const Key& key, double value) {
  const Range* range = std::get_if<Range>(&key.limit);
  if (!range) return true;
  return (range->low_open ? value > range->low : value >= range->low) &&
         (range->high_open ? value < range->high : value <= range->high);
}

std::string choice_error(const Key& key, const std::string& text) {
  const Choices* choices = std::get_if<Choices>(&key.limit);
  if (!choices || std::find(choices->begin(), choices->end(), text) != choices->end()) return "";
  return "unknown value '" + text + "'" + and_allowed(key) + hint_for_choice(text, *choices);
}

/// The whole text as a number; from_chars takes no leading '+'.
template <class T>
std::errc parse_number(const std::string& text, T& value) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error == std::errc() && stop != end) return std::errc::invalid_argument;
  return error;
}

bool is_integer(const std::string& text) {
  const size_t sign = text.find_first_of("+-") == 0 ? 1 : 0;
  return text.size() > sign &&
         std::all_of(text.begin() + sign, text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

template <class Integer>
std::string assign_integer(const Key& key, const Seen& seen, Integer& field) {
  if (seen.kind != Seen::Kind::plain || !is_integer(seen.text)) {
    return wrong_type(key, "an integer", seen);
  }
  Integer value = 0;
  // What from_chars refuses of an integer does not fit the type: too large, or negative where
  // unsigned.
  if (parse_number(seen.text, value) != std::errc() || !in_range(key, static_cast<double>(value))) {
    return out_of_range(key, seen.text);
  }
  field = value;
  return "";
}

std::string assign_double(const Key& key, const Seen& seen, double& field) {
  double value = 0;
  const std::errc error =
      seen.kind == Seen::Kind::plain ? parse_number(seen.text, value) : std::errc::invalid_argument;
  if (error == std::errc::result_out_of_range) return out_of_range(key, seen.text);
  if (error != std::errc() || !std::isfinite(value)) {
    return wrong_type(key, "a finite number", seen);
  }
  if (!in_range(key, value)) return out_of_range(key, seen.text);
  field = value;
  return "";
}

std::string assign_bool(const Key& key, const Seen& seen, bool& field) {
  if (seen.kind != Seen::Kind::plain || (seen.text != "true" && seen.text != "false")) {
    return wrong_type(key, "true or false", seen);
  }
  field = seen.text == "true";
  return "";
}

bool is_text(const Seen& seen) {
  return seen.kind == Seen::Kind::plain || seen.kind == Seen::Kind::quoted;
}

std::string assign_text(const Key& key, const Seen& seen, std::string& field) {
  if (!is_text(seen)) {
    std::string error = wrong_type(key, "a text", seen);
    if (seen.kind == Seen::Kind::nothing) error += "; an empty text is written \"\"";
    return error;
  }
  std::string error = choice_error(key, seen.text);
  if (error.empty()) field = seen.text;
  return error;
}

std::string assign_list(const Key& key, const Seen& seen, std::vector<std::string>& field) {
  if (seen.kind != Seen::Kind::list) {
    std::string error = wrong_type(key, "a list of texts", seen);
    return error + "; a list is written [" + (is_text(seen) ? seen.text : "") + "]";
  }
  std::vector<std::string> values;
  for (const Seen& item : seen.items) {
    if (!is_text(item)) return wrong_type(key, "texts in the list", item);
    if (std::string error = choice_error(key, item.text); !error.empty()) return error;
    values.push_back(item.text);
  }
  field = std::move(values);
  return "";
}

/// Shortest text that reads back to the same bits, with the exponent as people write it (5e-4, not
/// 5e-04).
std::string format_double(double value) {
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, end);
  const size_t exponent = text.find('e');
  if (exponent == std::string::npos) return text;
  const size_t digits = text.find_first_not_of("+-0", exponent + 1);
  const char* sign = text[exponent + 1] == '-' ? "-" : "";
  return text.substr(0, exponent + 1) + sign + text.substr(digits);
}

/// Plain where YAML reads a plain word back as this text, else in double quotes.
std::string format_text(const std::string& text) {
  const auto is_safe = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '/' || c == '+';
  };
  const bool starts_safe = !text.empty() && text[0] != '-' && is_safe(text[0]);
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (starts_safe && lower != "null" && std::all_of(text.begin(), text.end(), is_safe)) {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7F) {
      static constexpr char kDigits[] = "0123456789ABCDEF";
      quoted += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string format_bound(double bound) {
  if (bound == 18446744073709551615.0) return "18446744073709551615";
  // Whole numbers of this size read better without an exponent.
  if (std::abs(bound) < 1e7 && bound == std::floor(bound)) {
    return std::to_string(static_cast<long long>(bound));
  }
  return format_double(bound);
}

}  // namespace

std::string type_name(const Key& key) {
  return std::visit(
      overloaded{[](bool* (*)(Config&)) { return "true or false"; },
                 [](int* (*)(Config&)) { return "integer"; },
                 [](uint64_t* (*)(Config&)) { return "integer"; },
                 [](double* (*)(Config&)) { return "number"; },
                 [](std::string* (*)(Config&)) { return "text"; },
                 [](std::vector<std::string>* (*)(Config&)) { return "list of texts"; }},
      key.access);
}

std::string allowed_values(const Key& key) {
  if (const Range* range = std::get_if<Range>(&key.limit)) {
    const std::string low = format_bound(range->low), high = format_bound(range->high);
    if (range->low_open) return "more than " + low + ", up to " + high;
    if (range->high_open) return low + " to less than " + high;
    return low + " to " + high;
  }
  std::string text;
  if (const Choices* choices = std::get_if<Choices>(&key.limit)) {
    for (const std::string& choice : *choices) text += (text.empty() ? "" : ", ") + choice;
  }
  return text;
}

std::string assign(const Key& key, const Seen& seen, Config& config) {
  return std::visit(
      overloaded{
          [&](bool* (*field)(Config&)) { return assign_bool(key, seen, *field(config)); },
          [&](int* (*field)(Config&)) { return assign_integer(key, seen, *field(config)); },
          [&](uint64_t* (*field)(Config&)) { return assign_integer(key, seen, *field(config)); },
          [&](double* (*field)(Config&)) { return assign_double(key, seen, *field(config)); },
          [&](std::string* (*field)(Config&)) { return assign_text(key, seen, *field(config)); },
          [&](std::vector<std::string>* (*field)(Config&)) {
            return assign_list(key, seen, *field(config));
          }},
      key.access);
}

std::string format_value(const Key& key, const Config& config) {
  Config copy = config;  // the accessors want a mutable one
  return std::visit(
      overloaded{
          [&](bool* (*field)(Config&)) { return std::string(*field(copy) ? "true" : "false"); },
          [&](int* (*field)(Config&)) { return std::to_string(*field(copy)); },
          [&](uint64_t* (*field)(Config&)) { return std::to_string(*field(copy)); },
          [&](double* (*field)(Config&)) { return format_double(*field(copy)); },
          [&](std::string* (*field)(Config&)) { return format_text(*field(copy)); },
          [&](std::vector<std::string>* (*field)(Config&)) {
            std::string text;
            for (const std::string& item : *field(copy)) {
              text += (text.empty() ? "" : ", ") + format_text(item);
            }
            return "[" + text + "]";
          }},
      key.access);
}

}  // namespace espalier::common::config
