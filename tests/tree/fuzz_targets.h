// What the fuzzers and the corpus test do with bytes from anywhere: parse them as a journal and as
// a shard. Errors are StoreError or nothing; all else is a finding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/files.h"
#include "tree/journal.h"
#include "tree/journal_codec.h"
#include "tree/journal_events.h"
#include "tree/store.h"
#include "tree/verify.h"

namespace espalier::tree::testing {

/// Gives bytes a journal's header, and records whose lengths fit and whose checksums are true.
inline void repair_journal(uint8_t* data, size_t size) {
  const std::string header = file_header();
  if (size < header.size()) return;
  std::memcpy(data, header.data(), header.size());
  for (size_t at = header.size(); at + kFrameBytes <= size;) {
    uint32_t length = 0;
    std::memcpy(&length, data + at, sizeof length);
    length = static_cast<uint32_t>(std::min<size_t>(length, size - at - kFrameBytes));
    std::memcpy(data + at, &length, sizeof length);
    std::string covered(reinterpret_cast<char*>(data + at), sizeof length);
    covered.append(reinterpret_cast<char*>(data + at + 8), kFrameBytes - 8 + length);
    const uint32_t crc = common::masked_crc32c(covered);
    std::memcpy(data + at + 4, &crc, sizeof crc);
    at += kFrameBytes + length;
  }
}

inline void fuzz_journal(const std::filesystem::path& scratch, std::string_view bytes) {
  overwrite(scratch / "000001.log", std::string(bytes));
  try {
    recover_trees(scratch);
    Verification verification;
    verify_journal(scratch, verification);
  } catch (const common::StoreError&) {
  }
}

inline void fuzz_store(const std::filesystem::path& scratch, std::string_view bytes) {
  overwrite(scratch / "shard.h5", std::string(bytes));
  try {
    read_ids(scratch / "shard.h5");
    for (const Tree& tree : read_trees(scratch / "shard.h5")) tree_digest(tree);
  } catch (const common::StoreError&) {
  }
}

}  // namespace espalier::tree::testing
