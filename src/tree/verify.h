// Whether a run's trace is what was written: every checksum, every id and every digest again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace espalier::tree {

struct Verification {
  uint64_t journal_files = 0;
  uint64_t journal_bytes = 0;
  uint64_t records = 0;
  uint64_t skipped = 0;  // records of types this version does not know: checksums only
  uint64_t shards = 0;
  uint64_t trees = 0;   // in shards
  uint64_t nodes = 0;   // ids computed again, in journal and shards
  std::string problem;  // the first thing that is wrong and where; empty: nothing
  bool torn = false;    // it is an incomplete record at the journal's end
};

/// Checks the files of a journal in order, up to the first record that is not as it was written:
/// frames, checksums, the events within, ids against their content, parents. Memory is bounded by
/// the trees that are open at one time. Errors: StoreError when a file cannot be read.
void verify_journal(const std::filesystem::path& directory, Verification& verification);

/// verify_journal(), then all shards. Errors: ConfigError when it is no run; StoreError.
Verification verify_run(const std::filesystem::path& run);

}  // namespace espalier::tree
