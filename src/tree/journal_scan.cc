#include "tree/journal_scan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::tree {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;

}  // namespace

FrameScanner::FrameScanner(const std::filesystem::path& file, uint64_t from)
    : file_(file), offset_(from) {
  fd_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0)
    throw common::StoreError("open journal file " + file.string() + ": " + std::strerror(errno));
  struct stat status;
  if (::fstat(fd_, &status) == 0 && static_cast<uint64_t>(status.st_size) >= from) return;
  ::close(fd_);
  throw common::StoreError("open journal file " + file.string() + ": it ends before byte " +
                           std::to_string(from));
}

FrameScanner::~FrameScanner() { ::close(fd_); }

FrameScanner::Status FrameScanner::next() {
  if (offset_ == 0) {
    if (!ensure(kFileHeaderBytes)) return buffer_.empty() ? Status::end : Status::torn;
    if (auto wrong = check_file_header(view(0, kFileHeaderBytes)); !wrong.empty())
      return damaged(wrong);
    offset_ = consumed_ = kFileHeaderBytes;
  }
  if (!ensure(1)) return Status::end;
  if (!ensure(kFrameBytes)) return Status::torn;
  const Frame frame = parse_frame(view(0, kFrameBytes));
  if (frame.length > kMaxPayloadBytes)
    return damaged("a record of " + std::to_string(frame.length) +
                   " bytes; allowed: " + std::to_string(kMaxPayloadBytes));
  if (!ensure(kFrameBytes + frame.length)) return Status::torn;
  payload_ = view(kFrameBytes, frame.length);
  if (!frame_matches(view(0, kFrameBytes), payload_)) return damaged("checksum does not match");
  type_ = frame.type;
  flags_ = frame.flags;
  consumed_ += kFrameBytes + frame.length;
  offset_ += kFrameBytes + frame.length;
  return Status::record;
}

bool FrameScanner::ensure(size_t bytes) {
  if (buffer_.size() - consumed_ >= bytes) return true;
  buffer_.erase(0, consumed_);
  consumed_ = 0;
  while (buffer_.size() < bytes) {
    const size_t have = buffer_.size();
    buffer_.resize(std::min(std::max(bytes, have + kChunkBytes), have + 16 * kChunkBytes));
    ssize_t got;
    do {
      got = ::pread(fd_, buffer_.data() + have, buffer_.size() - have,
                    static_cast<off_t>(offset_ + have));
    } while (got < 0 && errno == EINTR);
    const int error = errno;
    buffer_.resize(have + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0)
      throw common::StoreError("read journal file " + file_.string() + ": " + std::strerror(error));
    if (got == 0) return false;
  }
  return true;
}

std::string_view FrameScanner::view(size_t from, size_t bytes) const {
  return std::string_view(buffer_).substr(consumed_ + from, bytes);
}

FrameScanner::Status FrameScanner::damaged(std::string reason) {
  reason_ = std::move(reason);
  return Status::damaged;
}

}  // namespace espalier::tree
