#include <algorithm>

#include "common/error.h"
#include "tree/journal.h"
#include "tree/journal_scan.h"

namespace espalier::tree {

struct JournalReader::Impl {
  std::filesystem::path directory;
  std::unique_ptr<FrameScanner> scanner;
  std::filesystem::path successor;  // seen when the present file last ended
  std::string damage;
  uint64_t skipped = 0;
  bool stopped = false;

  /// The file after the one being read; empty: none yet.
  std::filesystem::path following() const {
    for (const auto& file : journal_files(directory))
      if (!scanner || journal_file_number(file) > journal_file_number(scanner->file())) return file;
    return {};
  }

  void stop(const std::string& reason) {
    damage =
        scanner->file().string() + " at byte " + std::to_string(scanner->offset()) + ": " + reason;
    stopped = true;
  }

  /// Goes on to the next file once the present one has ended for good. False: nothing more for now.
  bool advance() {
    if (successor.empty()) {
      successor = following();
      // The present file may have grown between its end and the birth of the next: read it once
      // more.
      return !successor.empty();
    }
    scanner = std::make_unique<FrameScanner>(successor);
    successor.clear();
    return true;
  }

  std::optional<Event> decode(uint64_t offset) {
    try {
      return decode_payload(scanner->type(), scanner->payload());
    } catch (const common::StoreError& error) {
      stop("the record before it (at byte " + std::to_string(offset) +
           ") is damaged: " + error.what());
      return std::nullopt;
    }
  }

  std::optional<Event> next() {
    if (stopped) return std::nullopt;
    damage.clear();
    if (!scanner) {
      const auto first = following();
      if (first.empty()) return std::nullopt;
      scanner = std::make_unique<FrameScanner>(first);
    }
    for (;;) {
      const uint64_t offset = scanner->offset();
      switch (scanner->next()) {
        case FrameScanner::Status::record:
          if (known_record(scanner->type(), scanner->flags())) return decode(offset);
          ++skipped;
          break;
        case FrameScanner::Status::end:
          if (!advance()) return std::nullopt;
          break;
        case FrameScanner::Status::torn:
          if (!successor.empty() || !advance()) {
            const bool followed = !successor.empty();
            stop("incomplete record");
            stopped = followed;  // at the journal's end it may still be completed
            return std::nullopt;
          }
          break;
        case FrameScanner::Status::damaged:
          stop(scanner->reason());
          return std::nullopt;
      }
    }
  }
};

JournalReader::JournalReader(const std::filesystem::path& directory, JournalPosition from)
    : impl_(std::make_unique<Impl>()) {
  impl_->directory = directory;
  journal_files(
      directory);  // a directory that cannot be read is an error now, not an empty journal
  if (from.file > 0)
    impl_->scanner =
        std::make_unique<FrameScanner>(journal_file(directory, from.file), from.offset);
}

JournalReader::~JournalReader() = default;

std::optional<Event> JournalReader::next() { return impl_->next(); }

uint64_t JournalReader::skipped() const { return impl_->skipped; }

std::string JournalReader::damage() const { return impl_->damage; }

bool JournalReader::stopped() const { return impl_->stopped; }

}  // namespace espalier::tree
