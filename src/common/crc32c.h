// CRC-32C (Castagnoli), as TensorBoard's event files and our journal use it.
#pragma once

#include <cstdint>
#include <string_view>

namespace espalier::common {

/// `seed`: the checksum of what stands before, so that crc32c(b, crc32c(a)) == crc32c(a + b).
uint32_t crc32c(std::string_view bytes, uint32_t seed = 0);
/// TensorFlow's masked form (record format).
uint32_t masked_crc32c(std::string_view bytes);

namespace internal {
/// What crc32c() runs where the processor has no instruction for it.
uint32_t crc32c_by_table(std::string_view bytes, uint32_t seed);
}  // namespace internal

}  // namespace espalier::common
