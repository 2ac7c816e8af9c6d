// The fuzzers' corpus in the ordinary tests: the golden files, and changes of them that keep the
// checksums of a journal's records true, so that the event parser sees them.
#include <gtest/gtest.h>

#include "common/crc32c.h"
#include "common/rng.h"
#include "tree/fuzz_targets.h"
#include "tree/journal_codec.h"

namespace espalier::tree {
namespace {

std::string golden(const char* name) {
  return common::read_file(std::filesystem::path(ESPALIER_SOURCE_DIR) / "tests/tree/golden" / name);
}

/// A record with this payload and a true checksum.
std::string framed(uint16_t type, const std::string& payload) {
  std::string head(kFrameBytes, '\0');
  for (size_t i = 0; i < 4; ++i) head[i] = static_cast<char>(payload.size() >> (8 * i) & 0xFF);
  head[8] = static_cast<char>(type);
  const uint32_t crc = common::masked_crc32c(head.substr(0, 4) + head.substr(8) + payload);
  for (size_t i = 0; i < 4; ++i) head[4 + i] = static_cast<char>(crc >> (8 * i) & 0xFF);
  return head + payload;
}

TEST(FuzzCorpus, JournalRecordsOfAnyContent) {
  const common::TempDir scratch;
  common::Rng rng({11});
  Event event;
  event.type = EventType::turn;
  event.payload = testing::random_tree(1).nodes[0];
  std::string whole;
  encode_record(event, whole);
  const std::string payload = whole.substr(kFrameBytes);
  testing::fuzz_journal(scratch.path(), golden("journal.log"));
  for (int round = 0; round < 2000; ++round) {
    std::string changed = payload;
    for (int64_t flips = rng.range(1, 4); flips > 0; --flips)
      changed[static_cast<size_t>(rng.range(0, static_cast<int64_t>(changed.size()) - 1))] =
          static_cast<char>(rng.range(0, 255));
    changed.resize(static_cast<size_t>(rng.range(0, static_cast<int64_t>(changed.size()))));
    const auto type = static_cast<uint16_t>(rng.range(0, 20));
    testing::fuzz_journal(scratch.path(), file_header() + framed(type, changed));
  }
}

/// What the fuzzers found worth keeping (tests/fuzz/corpus, minimised).
TEST(FuzzCorpus, EveryFileOfTheCorpusIsReadOrRefused) {
  const std::filesystem::path corpus =
      std::filesystem::path(ESPALIER_SOURCE_DIR) / "tests/fuzz/corpus";
  const common::TempDir scratch;
  for (const bool store : {false, true}) {
    int files = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(corpus / (store ? "store" : "journal"))) {
      const std::string bytes = common::read_file(entry.path());
      SCOPED_TRACE(entry.path().string());
      store ? testing::fuzz_store(scratch.path(), bytes)
            : testing::fuzz_journal(scratch.path(), bytes);
      ++files;
    }
    EXPECT_GT(files, 10) << (store ? "store" : "journal");
  }
}

/// A shard with bytes changed anywhere is read or refused.
TEST(FuzzCorpus, ShardsWithChangedBytes) {
  const common::TempDir scratch;
  common::Rng rng({12});
  const std::string whole = golden("shard.h5");
  for (int round = 0; round < 200; ++round) {
    std::string changed = whole;
    for (int64_t flips = rng.range(1, 8); flips > 0; --flips)
      changed[static_cast<size_t>(rng.range(0, static_cast<int64_t>(changed.size()) - 1))] =
          static_cast<char>(rng.range(0, 255));
    if (round % 4 == 0)
      changed.resize(static_cast<size_t>(rng.range(0, static_cast<int64_t>(changed.size()))));
    testing::fuzz_store(scratch.path(), changed);
  }
}

}  // namespace
}  // namespace espalier::tree
