// What the fuzzers and the corpus test do with bytes from anywhere: parse them as a journal and as
// a shard. Errors are StoreError or nothing; all else is a finding.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "common/error.h"
#include "common/files.h"
#include "tree/journal.h"
#include "tree/journal_events.h"
#include "tree/store.h"
#include "tree/verify.h"

namespace espalier::tree::testing {

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
