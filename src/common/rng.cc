#include "common/rng.h"

#include <cmath>
#include <numbers>
#include <string>

#include "common/error.h"
#include "common/sha256.h"

namespace espalier::common {
namespace {

std::string little_endian(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  return bytes;
}

double to_unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

uint64_t word64(const std::array<uint32_t, 4>& words) {
  return words[0] | static_cast<uint64_t>(words[1]) << 32;
}

}  // namespace

RngKey derive_key(uint64_t run_seed, std::string_view task, std::string_view path) {
  Sha256 hash;
  hash.update(little_endian(run_seed));
  for (std::string_view part : {task, path}) {
    hash.update(little_endian(part.size()));
    hash.update(part);
  }
  const Digest digest = hash.finish();
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= static_cast<uint64_t>(digest[i]) << (8 * i);
  return RngKey{value};
}

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

std::array<uint32_t, 4> philox(RngKey key, uint64_t counter) {
  return philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0},
                    {static_cast<uint32_t>(key.value), static_cast<uint32_t>(key.value >> 32)});
}

double uniform(RngKey key, uint64_t counter) { return to_unit(word64(philox(key, counter))); }

uint64_t Rng::next() { return word64(philox(key_, counter_++)); }

double Rng::uniform() { return to_unit(next()); }

int64_t Rng::range(int64_t low, int64_t high) {
  ESPALIER_CHECK(low <= high, "Rng::range: empty range");
  const uint64_t size = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
  if (size == 0) return static_cast<int64_t>(next());
  // Draws below `reject` would make the low values of the range likelier.
  const uint64_t reject = (0 - size) % size;
  uint64_t bits = next();
  while (bits < reject) bits = next();
  return static_cast<int64_t>(static_cast<uint64_t>(low) + bits % size);
}

double Rng::normal() {
  const auto words = philox(key_, counter_++);
  const double u = 1.0 - to_unit(word64(words));  // (0, 1]: the logarithm stays finite
  const double v = to_unit(words[2] | static_cast<uint64_t>(words[3]) << 32);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace espalier::common
