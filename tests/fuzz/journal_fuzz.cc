// libFuzzer target (preset fuzz).
#include "tree/fuzz_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const espalier::common::TempDir scratch("espalier-fuzz");
  espalier::tree::testing::fuzz_journal(scratch.path(),
                                        {reinterpret_cast<const char*>(data), size});
  return 0;
}
