#include "app/bench_figures.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <string>

namespace espalier::app {
namespace {

void print_figure(const std::string& name, const nlohmann::json& value) {
  if (value.is_object() && value.contains("median")) {
    fmt::print("  {:<34} median {:>9.3f}   p95 {:>9.3f}   n {}\n", name,
               value["median"].get<double>(), value["p95"].get<double>(), value["n"].get<size_t>());
  } else if (value.is_object() && !value.empty()) {
    for (const auto& [key, part] : value.items()) print_figure(name + "." + key, part);
  } else if (value.is_number_float()) {
    fmt::print("  {:<34} {:.3f}\n", name, value.get<double>());
  } else {
    fmt::print("  {:<34} {}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

}  // namespace

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

nlohmann::json spread(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  const size_t p95 = std::min(values.size() - 1, values.size() * 95 / 100);
  return {{"median", values[values.size() / 2]}, {"p95", values[p95]}, {"n", values.size()}};
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string words((std::istreambuf_iterator<char>(file)), {});
  std::string line;
  for (size_t at = 0; at < words.size();) {
    const std::string word = words.c_str() + at;
    at += word.size() + 1;
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789_-+=.,:/@%") == std::string::npos;
    line += (line.empty() ? "" : " ") + (plain ? word : "'" + word + "'");
  }
  return line;
}

void print_figures(const nlohmann::json& figures, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", figures.dump(2));
    return;
  }
  for (const auto& [name, value] : figures.items()) print_figure(name, value);
}

}  // namespace espalier::app
