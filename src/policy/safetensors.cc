#include "policy/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/error.h"
#include "common/files.h"

namespace espalier::policy {
namespace fs = std::filesystem;
using common::PolicyError;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors holds little-endian data");

namespace {

// The format's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct DtypeName {
  const char* name;
  at::ScalarType type;
};
constexpr DtypeName kDtypes[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
    {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
    {"U8", at::kByte},    {"BOOL", at::kBool},
};

struct Entry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

class HeaderParser {
 public:
  HeaderParser(const fs::path& path, uint64_t data_bytes) : path_(path), data_bytes_(data_bytes) {}

  /// Entries in order of their offsets.
  std::vector<Entry> parse(const std::string& text) const {
    const json header = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!header.is_object()) fail("the header is not a JSON object");
    std::vector<Entry> entries;
    for (const auto& [name, value] : header.items()) {
      if (name != "__metadata__") entries.push_back(parse_entry(name, value));
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
    });
    uint64_t expected = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != expected) {
        fail("tensor " + entry.name + " begins at " + std::to_string(entry.begin) + "; allowed: " +
             std::to_string(expected) + " (tensors neither overlap nor leave holes)");
      }
      expected = entry.end;
    }
    if (expected != data_bytes_) {
      fail("tensors end at " + std::to_string(expected) + " of " + std::to_string(data_bytes_) +
           " data bytes");
    }
    return entries;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw PolicyError("load safetensors " + path_.string() + ": " + what);
  }

 private:
  Entry parse_entry(const std::string& name, const json& value) const {
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      fail("tensor " + name + " lacks dtype, shape or data_offsets");
    }
    Entry entry{name, dtype_of(name, value["dtype"]), {}, 0, 0};
    uint64_t bytes = at::elementSize(entry.dtype);
    if (!value["shape"].is_array()) fail("tensor " + name + ": shape is not an array");
    for (const json& size : value["shape"]) {
      if (!size.is_number_unsigned())
        fail("tensor " + name + ": shape is " + value["shape"].dump());
      const uint64_t extent = size.get<uint64_t>();
      // Anything larger than the file is damage, and stopping here keeps the product from
      // overflowing.
      if (extent > std::numeric_limits<int64_t>::max() ||
          (extent != 0 && bytes > (data_bytes_ + 8) / extent)) {
        fail("tensor " + name + ": shape " + value["shape"].dump() + " exceeds the file");
      }
      bytes *= extent;
      entry.shape.push_back(static_cast<int64_t>(extent));
    }
    const json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      fail("tensor " + name + ": data_offsets is " + offsets.dump());
    }
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
    if (entry.begin > entry.end || entry.end > data_bytes_) {
      fail("tensor " + name + ": data_offsets " + offsets.dump() + " outside 0.." +
           std::to_string(data_bytes_));
    }
    if (entry.end - entry.begin != bytes) {
      fail("tensor " + name + ": " + std::to_string(entry.end - entry.begin) + " bytes for shape " +
           value["shape"].dump() + ", which needs " + std::to_string(bytes));
    }
    return entry;
  }

  at::ScalarType dtype_of(const std::string& name, const json& value) const {
    for (const DtypeName& dtype : kDtypes) {
      if (value.is_string() && value == dtype.name) return dtype.type;
    }
    std::string allowed;
    for (const DtypeName& dtype : kDtypes)
      allowed += std::string(allowed.empty() ? "" : " ") + dtype.name;
    fail("tensor " + name + ": dtype is " + value.dump() + "; allowed: " + allowed);
  }

  const fs::path& path_;
  uint64_t data_bytes_;
};

const char* dtype_name(at::ScalarType type, const std::string& tensor) {
  for (const DtypeName& dtype : kDtypes) {
    if (dtype.type == type) return dtype.name;
  }
  throw PolicyError("save safetensors: tensor " + tensor + " has dtype " + at::toString(type) +
                    ", which the format has no name for");
}

}  // namespace

TensorMap load_safetensors(const fs::path& path) {
  const HeaderParser opening(path, 0);
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const uint64_t file_bytes = fs::file_size(path, error);
  if (error) opening.fail(error.message());
  if (!file) opening.fail("cannot be opened");
  uint64_t header_bytes = 0;
  if (file_bytes < sizeof header_bytes ||
      !file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes)) {
    opening.fail("shorter than the 8 bytes of a header length");
  }
  if (header_bytes > std::min(kMaxHeaderBytes, file_bytes - sizeof header_bytes)) {
    opening.fail("the header has " + std::to_string(header_bytes) +
                 " bytes by its length; the file has " + std::to_string(file_bytes));
  }
  std::string header(header_bytes, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const HeaderParser parser(path, file_bytes - sizeof header_bytes - header_bytes);
  TensorMap tensors;
  for (const Entry& entry : parser.parse(header)) {
    at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype));
    file.read(static_cast<char*>(tensor.data_ptr()),
              static_cast<std::streamsize>(entry.end - entry.begin));
    if (!file) parser.fail("cannot read tensor " + entry.name);
    tensors.emplace(entry.name, std::move(tensor));
  }
  return tensors;
}

void save_safetensors(const fs::path& path, const TensorMap& tensors,
                      const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", dtype_name(tensor.scalar_type(), name)},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  uint64_t header_bytes = text.size();
  std::string content(sizeof header_bytes, '\0');
  content.reserve(sizeof header_bytes + text.size() + offset);
  std::memcpy(content.data(), &header_bytes, sizeof header_bytes);
  content += text;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor plain = tensor.detach().cpu().contiguous();
    content.append(static_cast<const char*>(plain.data_ptr()), plain.nbytes());
  }
  common::write_file_atomically(path, content);
}

}  // namespace espalier::policy
