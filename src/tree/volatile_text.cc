#include "tree/volatile_text.h"

#include <regex>

namespace espalier::tree {
namespace {

struct Pattern {
  const char* kind;
  std::regex places;
};

/// Longer forms come before those they contain.
const std::vector<Pattern>& patterns() {
  constexpr auto kFlags = std::regex::ECMAScript | std::regex::optimize;
  static const std::vector<Pattern> all = {
      {"random id", std::regex("[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-"
                               "[0-9a-fA-F]{12}",
                               kFlags)},
      {"temporary name", std::regex(R"(\btmp[._-]?[A-Za-z0-9_]{6,})", kFlags)},
      {"address", std::regex(R"(\b0x[0-9a-fA-F]{6,}\b)", kFlags)},
      {"date", std::regex(R"(\b\d{4}-\d{2}-\d{2}\b)", kFlags)},
      {"date", std::regex(R"(\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b,?)", kFlags)},
      {"date", std::regex(R"(\b\d{0,2} ?(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b)"
                          R"(( +\d{1,2}\b)?( +\d{4}\b)?)",
                          kFlags)},
      {"time of day", std::regex(R"(\b\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\b)", kFlags)},
      {"seconds since 1970", std::regex(R"(\b1[5-9]\d{8}(\.\d+|\d{3}|\d{6}|\d{9})?\b)", kFlags)},
      {"duration", std::regex(R"(\b\d+m\d+([.,]\d+)?s\b)", kFlags)},
      {"duration", std::regex(R"(\b\d+([.,]\d+)? ?(ns|us|ms|s|secs?|seconds?)\b)", kFlags)},
      {"process id", std::regex(R"(\b([Pp][Ii][Dd]|[Pp]rocess)[ =:#]*\d+)", kFlags)},
      {"process id", std::regex(R"((\[\d+\]\+? +)\d+\b)", kFlags)},
      {"process id", std::regex(R"(\w\[\d+\])", kFlags)},
  };
  return all;
}

}  // namespace

Masked mask_volatile(const std::string& text) {
  Masked masked{text, {}};
  for (const Pattern& pattern : patterns()) {
    if (!std::regex_search(masked.text, pattern.places)) continue;
    masked.text =
        std::regex_replace(masked.text, pattern.places, std::string("<") + pattern.kind + ">");
    if (masked.kinds.empty() || masked.kinds.back() != pattern.kind)
      masked.kinds.emplace_back(pattern.kind);
  }
  return masked;
}

}  // namespace espalier::tree
