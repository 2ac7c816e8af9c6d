// What a command prints, through the user's pager when it goes to a terminal.
#pragma once

#include <cstdio>
#include <string>

namespace espalier::app {

/// Thread contract: one owner. Starts $PAGER (default: less -FRX; "" or cat: none) when stdout is a
/// terminal; waits for its end when destroyed. Nothing is printed any more once the reader has
/// gone.
class Pager {
 public:
  explicit Pager(bool wanted = true);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;
  /// False: nobody reads any more.
  bool print(const std::string& text);

 private:
  std::FILE* pipe_ = nullptr;
  bool open_ = true;
};

}  // namespace espalier::app
