// What is kept of a command's output.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace espalier::envs::sandbox {

/// Keeps the first and the last half of what is appended, up to a limit. Thread contract: one
/// owner.
class OutputBuffer {
 public:
  explicit OutputBuffer(size_t limit_bytes) : limit_(limit_bytes) {}  // 0: no limit

  void append(std::string_view bytes);
  size_t total_bytes() const { return total_; }
  /// Head and tail with "\n[... N bytes omitted ...]\n" between them when something was left out.
  /// Empties the buffer.
  std::string take();

 private:
  size_t limit_;
  size_t total_ = 0;
  std::string head_;
  std::string tail_;  // at most twice its share between compactions
};

}  // namespace espalier::envs::sandbox
