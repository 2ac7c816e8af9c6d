// Where a run's numbers go: metrics.jsonl and TensorBoard event files, one record a step.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace espalier::common {

/// Metric name ("critic/score/mean") → value, in order of names.
using Metrics = std::map<std::string, double>;

/// Thread contract: one owner.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void log(uint64_t step, const Metrics& metrics) = 0;
  virtual void flush() = 0;
};

/// `file`: metrics.jsonl, one object a line with "step" first, keys sorted, non-finite values as
/// null. Every line is written whole. On opening, lines of steps >= next_step are cut (a resumed
/// run repeats no step).
std::unique_ptr<MetricsSink> make_jsonl_sink(const std::filesystem::path& file, uint64_t next_step);

/// `directory`: tb/, event files of TensorBoard (TFRecord framing, masked CRC-32C, protobuf Event
/// with simple_value). Events of steps >= next_step left by an interrupted run are cut.
std::unique_ptr<MetricsSink> make_tensorboard_sink(const std::filesystem::path& directory,
                                                   uint64_t next_step);

/// The sinks named ("jsonl", "tensorboard") in a run directory, as one. Errors: ConfigError,
/// StoreError.
std::unique_ptr<MetricsSink> make_sinks(const std::vector<std::string>& names,
                                        const std::filesystem::path& run_directory,
                                        uint64_t next_step);

}  // namespace espalier::common
