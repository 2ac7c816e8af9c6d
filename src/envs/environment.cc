#include "envs/environment.h"

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

}  // namespace espalier::envs
