#include "envs/sandbox/output_buffer.h"

#include <algorithm>

namespace espalier::envs::sandbox {

void OutputBuffer::append(std::string_view bytes) {
  total_ += bytes.size();
  if (limit_ == 0) {
    head_ += bytes;
    return;
  }
  size_t head_share = limit_ - limit_ / 2, tail_share = limit_ / 2;
  if (head_.size() < head_share) {
    size_t n = std::min(head_share - head_.size(), bytes.size());
    head_ += bytes.substr(0, n);
    bytes.remove_prefix(n);
  }
  if (bytes.size() > tail_share) bytes.remove_prefix(bytes.size() - tail_share);
  tail_ += bytes;
  if (tail_.size() > 2 * tail_share) tail_.erase(0, tail_.size() - tail_share);
}

std::string OutputBuffer::take() {
  size_t tail_share = limit_ / 2;
  if (tail_.size() > tail_share) tail_.erase(0, tail_.size() - tail_share);
  size_t omitted = total_ - head_.size() - tail_.size();
  std::string out = std::move(head_);
  if (omitted > 0) out += "\n[... " + std::to_string(omitted) + " bytes omitted ...]\n";
  out += tail_;
  *this = OutputBuffer(limit_);
  return out;
}

}  // namespace espalier::envs::sandbox
