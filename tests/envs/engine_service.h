// podman's API service, as scripts/container_engine.sh starts it: what the tests of the container
// backend run against.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "common/files.h"

namespace espalier::envs::testing {

class EngineService {
 public:
  /// Starts it. Errors: SandboxError that says what is missing.
  EngineService();
  /// Ends it; nothing of it is left.
  ~EngineService();
  EngineService(const EngineService&) = delete;
  EngineService& operator=(const EngineService&) = delete;

  std::string socket() const { return directory_.path() / "engine.sock"; }
  /// Path of a tarball of a small root: bash, coreutils and the like, a user "agent".
  std::string root_tarball() const { return directory_.path() / "root.tar"; }
  /// The image made of it, whose user is "agent".
  std::string image() const { return "localhost/espalier-host:latest"; }

  /// One for the whole program, ended with it. Errors: as the constructor, every time.
  static EngineService& shared();

 private:
  void start();
  void stop();

  common::TempDir directory_{"espalier-engine"};
  pid_t service_ = -1;
};

}  // namespace espalier::envs::testing
