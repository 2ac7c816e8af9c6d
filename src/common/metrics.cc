#include "common/metrics.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "common/error.h"
#include "common/files.h"

namespace espalier::common {
namespace fs = std::filesystem;
namespace {

/// Step of a line, or nothing when it is damaged.
std::optional<uint64_t> step_of(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  const auto step = json.find("step");
  if (step == json.end() || !step->is_number_unsigned()) return std::nullopt;
  return step->get<uint64_t>();
}

void cut_from(const fs::path& file, uint64_t next_step) {
  std::error_code unknown;  // read_file says what is wrong, if anything
  if (!fs::exists(file, unknown) && !unknown) return;
  const std::string content = read_file(file);
  std::string kept;
  size_t damaged = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = content.find('\n', begin);
    const std::string_view line(content.data() + begin, std::min(end, content.size()) - begin);
    const std::optional<uint64_t> step = step_of(line);
    if (end == std::string::npos || !step) {
      ++damaged;
    } else if (*step < next_step) {
      kept.append(line).push_back('\n');
    }
    begin = end == std::string::npos ? content.size() : end + 1;
  }
  if (damaged > 0) spdlog::warn("{}: dropped {} damaged line(s)", file.string(), damaged);
  if (kept.size() != content.size()) write_file_atomically(file, kept);
}

class JsonlSink : public MetricsSink {
 public:
  JsonlSink(const fs::path& file, uint64_t next_step) : file_(cut(file, next_step)) {}

  void log(uint64_t step, const Metrics& metrics) override {
    nlohmann::ordered_json line = {{"step", step}};
    for (const auto& [name, value] : metrics) line[name] = value;  // non-finite: dumped as null
    file_.append(line.dump() + "\n");
  }
  void flush() override { file_.sync(); }

 private:
  static const fs::path& cut(const fs::path& file, uint64_t next_step) {
    cut_from(file, next_step);
    return file;
  }

  AppendFile file_;
};

class AllSinks : public MetricsSink {
 public:
  explicit AllSinks(std::vector<std::unique_ptr<MetricsSink>> sinks) : sinks_(std::move(sinks)) {}
  void log(uint64_t step, const Metrics& metrics) override {
    for (const auto& sink : sinks_) sink->log(step, metrics);
  }
  void flush() override {
    for (const auto& sink : sinks_) sink->flush();
  }

 private:
  std::vector<std::unique_ptr<MetricsSink>> sinks_;
};

}  // namespace

std::unique_ptr<MetricsSink> make_jsonl_sink(const fs::path& file, uint64_t next_step) {
  return std::make_unique<JsonlSink>(file, next_step);
}

std::unique_ptr<MetricsSink> make_sinks(const std::vector<std::string>& names,
                                        const fs::path& run_directory, uint64_t next_step) {
  std::vector<std::unique_ptr<MetricsSink>> sinks;
  for (const std::string& name : names) {
    if (name == "jsonl") {
      sinks.push_back(make_jsonl_sink(run_directory / "metrics.jsonl", next_step));
    } else if (name == "tensorboard") {
      sinks.push_back(make_tensorboard_sink(run_directory / "tb", next_step));
    } else {
      throw ConfigError("trainer.logger: unknown value '" + name +
                        "'; allowed: jsonl, tensorboard");
    }
  }
  return std::make_unique<AllSinks>(std::move(sinks));
}

}  // namespace espalier::common
