// A limit on file sizes stands for a full disk in tests.
#pragma once

#include <sys/resource.h>

#include <csignal>

namespace espalier::tree::testing {

/// From now on files of this process cannot grow beyond `bytes`: write() fails with EFBIG.
/// For a child process.
inline void limit_file_size(rlim_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, RLIM_INFINITY};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

}  // namespace espalier::tree::testing
