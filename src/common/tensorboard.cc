#include <spdlog/spdlog.h>
#include <tfevents.pb.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <system_error>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/files.h"
#include "common/metrics.h"

namespace espalier::common {
namespace fs = std::filesystem;
namespace {

double seconds_since_epoch() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  return bytes;
}

template <class T>
T read_little_endian(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  }
  return value;
}

/// TFRecord: length (8 bytes), masked CRC of the length (4), payload, masked CRC of the payload
/// (4).
std::string frame(const std::string& payload) {
  const std::string length = little_endian<uint64_t>(payload.size());
  return length + little_endian(masked_crc32c(length)) + payload +
         little_endian(masked_crc32c(payload));
}

/// The payload of the record that begins `bytes`, or nothing when it is torn or damaged.
std::optional<std::string_view> unframe(std::string_view bytes) {
  if (bytes.size() < 16) return std::nullopt;
  const auto length = read_little_endian<uint64_t>(bytes);
  if (read_little_endian<uint32_t>(bytes.substr(8)) != masked_crc32c(bytes.substr(0, 8)) ||
      length > bytes.size() - 16) {
    return std::nullopt;
  }
  const std::string_view payload = bytes.substr(12, length);
  if (read_little_endian<uint32_t>(bytes.substr(12 + length)) != masked_crc32c(payload)) {
    return std::nullopt;
  }
  return payload;
}

void cut_from(const fs::path& file, uint64_t next_step) {
  const std::string content = read_file(file);
  std::string kept;
  bool has_summary = false;
  std::string_view rest = content;
  while (const auto payload = unframe(rest)) {
    const size_t size = payload->size() + 16;
    tfevents::Event event;
    const bool readable = event.ParseFromArray(payload->data(), static_cast<int>(payload->size()));
    if (readable && static_cast<uint64_t>(event.step()) < next_step) {
      kept.append(rest.substr(0, size));
      has_summary |= event.has_summary();
    }
    rest.remove_prefix(size);
  }
  if (!rest.empty()) {
    spdlog::warn("{}: dropped {} byte(s) of a torn record", file.string(), rest.size());
  }
  if (!has_summary) {
    fs::remove(file);
  } else if (kept.size() != content.size()) {
    write_file_atomically(file, kept);
  }
}

/// Cuts what an interrupted run left, and names a new file that TensorBoard sorts after the others.
fs::path prepare(const fs::path& directory, uint64_t next_step) try {
  fs::create_directories(directory);
  std::vector<fs::path> present;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) {
      present.push_back(entry.path());
    }
  }
  for (const fs::path& file : present) cut_from(file, next_step);

  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  const auto seconds = static_cast<uint64_t>(seconds_since_epoch());
  fs::path path;
  // Time first, number last: both orders of starting runs, far apart or within a second, sort
  // right.
  for (int number = 0; path.empty() || fs::exists(path); ++number) {
    char name[512];
    std::snprintf(name, sizeof name, "events.out.tfevents.%010llu.%s.%d.%03d",
                  static_cast<unsigned long long>(seconds), host, ::getpid(), number);
    path = directory / name;
  }
  return path;
} catch (const fs::filesystem_error& error) {
  throw StoreError("prepare event directory " + directory.string() + ": " + error.code().message());
}

class TensorboardSink : public MetricsSink {
 public:
  TensorboardSink(const fs::path& directory, uint64_t next_step)
      : file_(prepare(directory, next_step)) {
    tfevents::Event event;
    event.set_wall_time(seconds_since_epoch());
    event.set_file_version("brain.Event:2");
    write(event);
  }

  void log(uint64_t step, const Metrics& metrics) override {
    tfevents::Event event;
    event.set_wall_time(seconds_since_epoch());
    event.set_step(static_cast<int64_t>(step));
    for (const auto& [name, number] : metrics) {
      auto* value = event.mutable_summary()->add_value();
      value->set_tag(name);
      value->set_simple_value(static_cast<float>(number));
    }
    write(event);
  }
  void flush() override { file_.sync(); }

 private:
  void write(const tfevents::Event& event) { file_.append(frame(event.SerializeAsString())); }

  AppendFile file_;
};

}  // namespace

std::unique_ptr<MetricsSink> make_tensorboard_sink(const fs::path& directory, uint64_t next_step) {
  return std::make_unique<TensorboardSink>(directory, next_step);
}

}  // namespace espalier::common
