// espalier bench soak: many forks and starts, after which nothing may be left.
#pragma once

#include <nlohmann/json.hpp>

namespace espalier::app {

struct Soak {
  int forks = 10000;
  int starts = 2000;
};

/// Counts processes, mounts, descriptors, control groups and resident memory of this process and
/// its descendants before and after; {"before", "after", "leaks": [...], …}. The first counts are
/// taken after a warm-up, so that pools and caches are filled. Errors: Unsupported.
nlohmann::json run_soak(const Soak& soak);

}  // namespace espalier::app
