// What of a command's output is another every time: times, process ids, random names.
#pragma once

#include <string>
#include <vector>

namespace espalier::tree {

struct Masked {
  std::string text;                // with each such place replaced by its kind
  std::vector<std::string> kinds;  // "time of day", "process id", …: those that were found
};

Masked mask_volatile(const std::string& text);

}  // namespace espalier::tree
