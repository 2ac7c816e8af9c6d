#include "common/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier::common {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A reader of event files that shares no code with the writer: framing and the few protobuf fields
// by hand.
struct Event {
  double wall_time = 0;
  uint64_t step = 0;
  std::string file_version;
  std::map<std::string, float> values;
};

template <class T>
T load(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.at(0));
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
}

/// Calls field(number, wire value or bytes) for each field of a message.
template <class Field>
void each_field(std::string_view bytes, Field&& field) {
  while (!bytes.empty()) {
    const uint64_t tag = take_varint(bytes);
    size_t size = 0;
    switch (tag & 7) {
      case 0: {
        const uint64_t value = take_varint(bytes);
        field(tag >> 3, std::string_view(reinterpret_cast<const char*>(&value), 8));
        continue;
      }
      case 1:
        size = 8;
        break;
      case 2:
        size = take_varint(bytes);
        break;
      case 5:
        size = 4;
        break;
      default:
        FAIL() << "wire type " << (tag & 7);
    }
    field(tag >> 3, bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
}

Event parse_event(std::string_view payload) {
  Event event;
  each_field(payload, [&](uint64_t number, std::string_view bytes) {
    if (number == 1) event.wall_time = load<double>(bytes);
    if (number == 2) event.step = load<uint64_t>(bytes);
    if (number == 3) event.file_version = bytes;
    if (number != 5) return;
    each_field(bytes, [&](uint64_t, std::string_view value) {
      std::string tag;
      float number = std::numeric_limits<float>::infinity();
      each_field(value, [&](uint64_t field, std::string_view part) {
        if (field == 1) tag = part;
        if (field == 2) number = load<float>(part);
      });
      event.values[tag] = number;
    });
  });
  return event;
}

std::vector<Event> read_events(const fs::path& file) {
  const std::string content = read_file(file);
  std::string_view rest = content;
  std::vector<Event> events;
  while (!rest.empty()) {
    const auto size = load<uint64_t>(rest);
    EXPECT_EQ(load<uint32_t>(rest.substr(8)), masked_crc32c(rest.substr(0, 8)));
    const std::string_view payload = rest.substr(12, size);
    EXPECT_EQ(load<uint32_t>(rest.substr(12 + size)), masked_crc32c(payload));
    events.push_back(parse_event(payload));
    rest.remove_prefix(16 + size);
  }
  return events;
}

std::vector<fs::path> files_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<uint64_t> steps_in(const fs::path& directory) {
  std::vector<uint64_t> steps;
  for (const fs::path& file : files_in(directory)) {
    for (const Event& event : read_events(file)) {
      if (event.file_version.empty()) steps.push_back(event.step);
    }
  }
  return steps;
}

TEST(JsonlSink, WritesStepFirstThenSortedNamesAndNullForWhatIsNotFinite) {
  const TempDir dir;
  const fs::path file = dir.path() / "metrics.jsonl";
  auto sink = make_jsonl_sink(file, 0);
  sink->log(1, {{"val/mean", 0.1}, {"actor/lr", 5e-4}, {"bad", std::nan("")}});
  sink->log(2, {{"inf", -std::numeric_limits<double>::infinity()}});
  sink->flush();
  EXPECT_EQ(read_file(file),
            "{\"step\":1,\"actor/lr\":0.0005,\"bad\":null,\"val/mean\":0.1}\n"
            "{\"step\":2,\"inf\":null}\n");
}

TEST(JsonlSink, KeepsEveryBitOfADouble) {
  const TempDir dir;
  const fs::path file = dir.path() / "metrics.jsonl";
  const double value = 1.0 / 3;
  make_jsonl_sink(file, 0)->log(1, {{"x", value}});
  EXPECT_EQ(nlohmann::json::parse(read_file(file))["x"].get<double>(), value);
}

TEST(JsonlSink, OpeningCutsLaterStepsAndATornLine) {
  const TempDir dir;
  const fs::path file = dir.path() / "metrics.jsonl";
  write_file_atomically(
      file,
      "{\"step\":1,\"a\":1}\n{\"step\":2,\"a\":2}\nnonsense\n{\"step\":3,\"a\":3}\n"
      "{\"step\":2,\"b\":1}\n{\"step\":2,\"torn");
  make_jsonl_sink(file, 3)->log(3, {{"a", 4}});
  EXPECT_EQ(read_file(file),
            "{\"step\":1,\"a\":1}\n{\"step\":2,\"a\":2}\n{\"step\":2,\"b\":1}\n"
            "{\"step\":3,\"a\":4.0}\n");
}

TEST(JsonlSink, StepZeroCanBeWrittenAgain) {
  const TempDir dir;
  const fs::path file = dir.path() / "metrics.jsonl";
  make_jsonl_sink(file, 0)->log(0, {{"a", 1}});
  make_jsonl_sink(file, 1)->log(1, {{"a", 2}});
  EXPECT_EQ(read_file(file), "{\"step\":0,\"a\":1.0}\n{\"step\":1,\"a\":2.0}\n");
  make_jsonl_sink(file, 0)->log(0, {{"a", 3}});
  EXPECT_EQ(read_file(file), "{\"step\":0,\"a\":3.0}\n");
}

TEST(JsonlSink, AnUnusablePathIsNamed) {
  const TempDir dir;
  try {
    make_jsonl_sink(dir.path() / "no" / "metrics.jsonl", 0);
    FAIL();
  } catch (const StoreError& error) {
    EXPECT_THAT(error.what(), HasSubstr((dir.path() / "no" / "metrics.jsonl").string()));
  }
}

TEST(TensorboardSink, WritesVersionThenOneEventAStep) {
  const TempDir dir;
  auto sink = make_tensorboard_sink(dir.path() / "tb", 0);
  sink->log(1, {{"actor/lr", 0.5}, {"critic/score/mean", 0.25}});
  sink->log(3000000000, {{"x", -1}});
  sink->flush();
  const auto files = files_in(dir.path() / "tb");
  ASSERT_EQ(files.size(), 1u);
  EXPECT_TRUE(files[0].filename().string().starts_with("events.out.tfevents."));
  const auto events = read_events(files[0]);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].file_version, "brain.Event:2");
  EXPECT_GT(events[0].wall_time, 1.7e9);
  EXPECT_EQ(events[1].step, 1u);
  EXPECT_EQ(events[1].values,
            (std::map<std::string, float>{{"actor/lr", 0.5f}, {"critic/score/mean", 0.25f}}));
  EXPECT_EQ(events[2].step, 3000000000u);
}

TEST(TensorboardSink, ResumingRepeatsNoStep) {
  const TempDir dir;
  {
    auto sink = make_tensorboard_sink(dir.path(), 0);
    for (uint64_t step : {1, 2, 3, 4}) sink->log(step, {{"x", 1.0}});
  }
  // A crash in the middle of a record.
  const fs::path first = files_in(dir.path()).at(0);
  AppendFile(first).append(std::string_view("\x20\0\0\0\0", 5));
  {
    auto sink = make_tensorboard_sink(dir.path(), 3);
    for (uint64_t step : {3, 4, 5}) sink->log(step, {{"x", 2.0}});
  }
  EXPECT_THAT(steps_in(dir.path()), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(files_in(dir.path()).size(), 2u);
  EXPECT_EQ(files_in(dir.path()).at(0), first) << "the newer file must sort after the older";
  make_tensorboard_sink(dir.path(), 0);
  EXPECT_THAT(steps_in(dir.path()), ElementsAre());
  EXPECT_EQ(files_in(dir.path()).size(), 1u) << "files without a step left are removed";
}

TEST(Sinks, GoWhereARunKeepsThem) {
  const TempDir dir;
  auto sinks = make_sinks({"jsonl", "tensorboard"}, dir.path(), 0);
  sinks->log(1, {{"x", 1.0}});
  sinks->flush();
  EXPECT_EQ(read_file(dir.path() / "metrics.jsonl"), "{\"step\":1,\"x\":1.0}\n");
  EXPECT_THAT(steps_in(dir.path() / "tb"), ElementsAre(1));
  make_sinks({}, dir.path() / "none", 0)->log(1, {{"x", 1.0}});
  EXPECT_FALSE(fs::exists(dir.path() / "none"));
}

TEST(Sinks, AnUnknownNameListsTheAllowedOnes) {
  const TempDir dir;
  try {
    make_sinks({"wandb"}, dir.path(), 0);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "trainer.logger: unknown value 'wandb'; allowed: jsonl, tensorboard");
  }
}

}  // namespace
}  // namespace espalier::common
