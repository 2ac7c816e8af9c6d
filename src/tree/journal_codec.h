// The bytes of a journal: file header, record frames, event payloads (docs/format.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tree/journal.h"

namespace espalier::tree {

constexpr size_t kFileHeaderBytes = 16;
constexpr size_t kFrameBytes = 12;
constexpr uint32_t kMaxPayloadBytes = uint32_t{1} << 28;

std::string file_header();
/// Empty: a good header; else what is wrong with it. `bytes`: kFileHeaderBytes.
std::string check_file_header(std::string_view bytes);

struct Frame {
  uint16_t type = 0;
  uint16_t flags = 0;   // 0 in this version
  uint32_t length = 0;  // of the payload
  uint32_t crc = 0;     // masked CRC-32C over length, type, flags and payload
};
/// `bytes`: kFrameBytes.
Frame parse_frame(std::string_view bytes);
bool frame_matches(std::string_view bytes, std::string_view payload);

/// Appends the framed record to `out`. Errors: StoreError when the event is larger than a record
/// may be.
void encode_record(const Event& event, std::string& out);
/// Errors: StoreError.
Event decode_payload(uint16_t type, std::string_view payload);
/// Whether decode_payload() knows what such a record holds; others are from a newer version.
bool known_record(uint16_t type, uint16_t flags);

/// NNNNNN.log files of a journal in order.
std::vector<std::filesystem::path> journal_files(const std::filesystem::path& directory);
std::filesystem::path journal_file(const std::filesystem::path& directory, uint32_t number);
uint32_t journal_file_number(const std::filesystem::path& file);

}  // namespace espalier::tree
