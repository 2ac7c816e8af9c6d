// libFuzzer target (preset fuzz).
#include "tree/fuzz_targets.h"

/// libhdf5 itself leaks where a file is damaged.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const espalier::common::TempDir scratch("espalier-fuzz");
  espalier::tree::testing::fuzz_store(scratch.path(), {reinterpret_cast<const char*>(data), size});
  return 0;
}
