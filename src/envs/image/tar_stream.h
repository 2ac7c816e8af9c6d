// A tar archive read once from front to back, plain or compressed (gzip, bzip2, xz, zstd), and
// hashed both as it lies and as it unpacks.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>

#include "common/sha256.h"
#include "envs/sandbox/fd.h"

namespace espalier::envs::image {

/// Thread contract: one owner. Errors: TaskError naming the source and the member after which it
/// ends or is damaged; Cancelled.
class TarStream {
 public:
  /// `source` stands for the archive in messages. `cancelled` is looked at while reading.
  TarStream(sandbox::Fd file, std::string source, const std::atomic<bool>& cancelled);
  TarStream(const TarStream&) = delete;
  TarStream& operator=(const TarStream&) = delete;

  /// The next member; null at the end. Valid until the next call.
  archive_entry* next();
  archive* handle() const { return tar_.get(); }

  struct Digests {
    std::string file;     // SHA-256 in hex of the bytes as they lie
    std::string content;  // of the uncompressed archive: a "diff id"
    bool closed = false;  // the archive has its end mark
  };
  /// Reads what is left.
  Digests finish();

 private:
  struct Free {
    void operator()(archive* handle) const { archive_read_free(handle); }
  };
  using Reader = std::unique_ptr<archive, Free>;

  static la_ssize_t read_file(archive* handle, void* self, const void** data);
  static la_ssize_t read_content(archive* handle, void* self, const void** data);
  [[noreturn]] void fail(archive* handle, const std::string& where) const;

  sandbox::Fd file_;
  std::string source_;
  const std::atomic<bool>& cancelled_;
  common::Sha256 file_hash_, content_hash_;
  std::array<char, 64 * 1024> file_buffer_, content_buffer_;
  std::string tail_;  // the last block of the content
  std::string last_member_;
  Reader compressed_, tar_;
};

/// Opens a file for reading. Errors: TaskError "SOURCE: open PATH: reason".
sandbox::Fd open_for_reading(const std::filesystem::path& path, const std::string& source);

}  // namespace espalier::envs::image
