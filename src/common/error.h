// Error hierarchy and invariant checks shared by every layer.
//
// Bad input, a refused system call, a damaged file: an exception of the hierarchy below, whose
// message says operation, object, value seen and values allowed. A broken invariant of our own
// code: ESPALIER_CHECK, which aborts. Library exceptions are translated where the library is owned.
#pragma once

#include <stdexcept>
#include <string>

namespace espalier::common {

/// Base of everything Espalier throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A configuration file, key or value is wrong. Thrown before any work starts.
class ConfigError : public Error {
  using Error::Error;
};
/// A task directory or task name cannot be used.
class TaskError : public Error {
  using Error::Error;
};
/// The sandbox or its kernel facilities failed: an infrastructure fault, never a reward.
class SandboxError : public Error {
  using Error::Error;
};
/// The environment cannot be forked in its present state (say, it has background processes).
class NotForkable : public SandboxError {
  using SandboxError::SandboxError;
};
/// This machine lacks a kernel facility or library that is needed; `espalier doctor` tells more.
class Unsupported : public SandboxError {
  using SandboxError::SandboxError;
};
/// A journal, store or checkpoint cannot be read or written.
class StoreError : public Error {
  using Error::Error;
};
/// The policy (model, tokenizer, engine, server) failed.
class PolicyError : public Error {
  using Error::Error;
};
/// Stopped on request (Ctrl-C, closing); not a fault.
class Cancelled : public Error {
  using Error::Error;
};

/// Process exit codes; documented in README.md and `espalier --help`.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,      // the work failed (sandbox, policy, store)
  kExitUsage = 2,        // bad command line, configuration or task
  kExitUnsupported = 3,  // this machine lacks something that is needed (see `espalier doctor`)
  kExitCheckFailed = 4,  // `env check` or a comparison found what it must not find
  kExitInterrupted = 130,
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);

}  // namespace espalier::common

/// Aborts when an invariant of our own code is broken. Never for input.
#define ESPALIER_CHECK(condition, message)                                                         \
  do {                                                                                             \
    if (!(condition)) ::espalier::common::check_failed(#condition, __FILE__, __LINE__, (message)); \
  } while (false)
