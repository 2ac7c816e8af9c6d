// Figures of journal and store (`espalier bench store`, docs/trace.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace espalier::tree {

struct StoreBench {
  uint64_t events = 10'000'000;               // of 300 bytes, durability batch, one thread
  uint64_t verify_bytes = uint64_t{1} << 30;  // of a journal of whole trees
  uint64_t trees = 100'000;
  int opens = 200;                                      // of one tree by id, each time another
  std::filesystem::path directory;                      // for the files; emptied again
  std::function<bool(const std::string&)> on_progress;  // false: stop. Empty: not called
};

struct StoreFigures {
  double append_events_per_s = 0;
  double flatness = 0;        // time of the last tenth of the events / time of the first
  double writer_peak_mb = 0;  // memory of the process while it appends, above what it was before
  double raw_bytes_per_turn = 0;  // ids, log-probs, entropies, mask, text
  double journal_bytes_ratio = 0, store_bytes_ratio = 0;
  double verify_mb_per_s = 0;
  std::vector<double> open_tree_ms;
};

/// Errors: StoreError; Cancelled when on_progress says so.
StoreFigures bench_store(const StoreBench& bench);

}  // namespace espalier::tree
