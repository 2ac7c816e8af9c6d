// libFuzzer target (preset fuzz).
#include "tree/fuzz_targets.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

/// Most inputs get true checksums, so that what stands behind them is reached.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 != 0) espalier::tree::testing::repair_journal(data, size);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const espalier::common::TempDir scratch("espalier-fuzz");
  espalier::tree::testing::fuzz_journal(scratch.path(),
                                        {reinterpret_cast<const char*>(data), size});
  return 0;
}
