// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3"): a draw is a pure function of (key, counter), so nothing depends on thread
// timing.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace espalier::common {

/// Names a stream of random numbers. Derived from what the draw is for, never from time.
struct RngKey {
  uint64_t value = 0;
  bool operator==(const RngKey&) const = default;
};

/// Key of the stream for (run seed, task, tree path); order and content of the parts matter.
/// A 64-bit hash (first 8 bytes of SHA-256 over the length-prefixed parts).
RngKey derive_key(uint64_t run_seed, std::string_view task, std::string_view path);

/// The bare function, as published: ten rounds over a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Four independent 32-bit words for (key, counter).
std::array<uint32_t, 4> philox(RngKey key, uint64_t counter);

/// Uniform double in [0, 1) with 53 bits, from (key, counter).
double uniform(RngKey key, uint64_t counter);

/// A sequential view of one stream for code that draws many values in a fixed order.
/// Thread contract: one owner.
class Rng {
 public:
  explicit Rng(RngKey key) : key_(key) {}
  uint64_t next();                           // 64 uniform bits
  double uniform();                          // [0, 1)
  int64_t range(int64_t low, int64_t high);  // uniform in [low, high], unbiased
  double normal();                           // standard normal (Box-Muller, one value a draw)

 private:
  RngKey key_;
  uint64_t counter_ = 0;
};

}  // namespace espalier::common
