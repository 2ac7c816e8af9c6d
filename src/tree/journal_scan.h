// Walks the frames of one journal file from an offset, in chunks; shared by reader and writer.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tree/journal_codec.h"

namespace espalier::tree {

/// Thread contract: one owner. The file may grow meanwhile: end and torn are answers of the moment.
class FrameScanner {
 public:
  enum class Status {
    record,   // type() and payload() are those of the next one
    end,      // the file ends behind a complete record
    torn,     // it ends within one: being written, or cut off by a crash
    damaged,  // bytes that were never written so; reason() says what
  };

  /// `from`: where a record begins; 0: at the file's header. Errors: StoreError when the file
  /// cannot be opened, or ends before that.
  explicit FrameScanner(const std::filesystem::path& file, uint64_t from = 0);
  ~FrameScanner();
  FrameScanner(const FrameScanner&) = delete;
  FrameScanner& operator=(const FrameScanner&) = delete;

  /// Moves past the record it returns; does not move otherwise. Errors: StoreError (reading fails).
  Status next();
  uint16_t type() const { return type_; }
  uint16_t flags() const { return flags_; }
  std::string_view payload() const { return payload_; }  // until the following next()
  uint64_t offset() const { return offset_; }            // of the first byte not yet passed
  const std::string& reason() const { return reason_; }
  const std::filesystem::path& file() const { return file_; }

 private:
  bool ensure(size_t bytes);
  std::string_view view(size_t from, size_t bytes) const;
  Status damaged(std::string reason);

  std::filesystem::path file_;
  int fd_ = -1;
  std::string buffer_;   // bytes [offset_ - consumed_, …) of the file
  size_t consumed_ = 0;  // of buffer_
  uint64_t offset_ = 0;
  uint16_t type_ = 0, flags_ = 0;
  std::string_view payload_;
  std::string reason_;
};

}  // namespace espalier::tree
