// Helpers shared by the parts of Sandbox.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "envs/environment.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

inline constexpr size_t kReadsPerEvent =
    4;  // leaves the other sandboxes their turn when one floods
inline constexpr size_t kReadsPerDrain = 64;

std::exception_ptr sandbox_error(const std::string& text);
int64_t microseconds_since(Clock::time_point start);
/// As a shell says it: 128 + signal when killed.
int code_of(int wait_status);

/// Hands on what is readable, in at most `reads` pieces; false when the other end is closed.
bool read_available(int fd, size_t reads, const std::function<void(std::string_view)>& take);

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// An ExecRequest (wire.h) without its ticket; terminal is for kExecTerminal. Errors: SandboxError
/// when it is too long.
std::string exec_message(uint32_t flags, const std::vector<int>& targets, const std::string& cwd,
                         const std::vector<std::string>& argv, const std::vector<std::string>& env,
                         wire::TerminalShape terminal = {});

}  // namespace espalier::envs::sandbox
