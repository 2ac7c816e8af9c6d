#include "envs/environment.h"

#include "common/error.h"

namespace espalier::envs {

const char* to_string(ForkKind kind) {
  switch (kind) {
    case ForkKind::live:
      return "live";
    case ForkKind::proxy:
      return "proxy";
    case ForkKind::criu:
      return "criu";
    case ForkKind::value:
      return "value";
  }
  return "unknown";
}

void Environment::type(Typing, Completion<TerminalView> done) {
  done(std::make_exception_ptr(
      common::SandboxError("type into the terminal: the environment was started without one")));
}

}  // namespace espalier::envs
