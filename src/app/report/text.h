// Untrusted bytes made safe to show, and numbers made easy to read, for the report page.
#pragma once

#include <string>
#include <string_view>

namespace espalier::app {

/// Valid UTF-8 that shows what is in `bytes`: control characters as their pictures (ESC → ␛),
/// invalid bytes as \xNN, characters that reorder or hide text as \u{NNNN}. Newlines and tabs stay.
std::string printable(std::string_view bytes);

/// printable(), then escaped for HTML text and for attribute values in either quote.
std::string html(std::string_view bytes);

/// Terminal columns of printable text, estimated: wide East Asian characters and emoji count 2.
size_t columns_of(std::string_view printable_text);

/// First line of printable text (the rest is hinted at by ↵), cut with … to at most `columns`.
std::string shorten(std::string_view printable_text, size_t columns);

/// At most `bytes` of head and tail with a note of what was left out between them.
std::string head_and_tail(std::string_view text, size_t bytes);

std::string human_count(double value);              // 240123 → "240.1 k"
std::string exact_count(double value);              // 240123 → "240,123"; fractions with 2 digits
std::string human_seconds(double seconds);          // 65 → "1 min 5 s"
std::string percent(double share, int digits = 1);  // 0.354 → "35.4 %"
std::string signed_number(double value, int digits = 2);  // "+0.38", "−0.12", "0.00"
std::string plain_number(double value);                   // 4 significant digits, true minus sign

}  // namespace espalier::app
