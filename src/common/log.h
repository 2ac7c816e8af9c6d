// Logging set-up; everything logs through spdlog's default logger (spdlog::info, warn, error).
#pragma once

#include <filesystem>

namespace espalier::common {

/// Sends everything from debug up, with time stamps, to `run_log` (appended to; empty: no file) and
/// warnings and errors, bare, to stderr; with `verbose`, stderr shows info too. On a terminal a
/// line erases a progress bar drawn after '\r' and the bar's owner draws it again. May be called
/// again, say once the run directory is known. Errors: StoreError when the file cannot be opened.
void init_logging(const std::filesystem::path& run_log, bool verbose);

}  // namespace espalier::common
