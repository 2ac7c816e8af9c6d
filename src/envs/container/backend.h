// The container-engine backend: any engine that speaks Docker's HTTP API on a unix socket (Docker,
// podman's service). docs/sandbox.md, section "Container engines".
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"

namespace espalier::envs {

struct ContainerOptions {
  std::string socket;  // of the engine; empty: DOCKER_HOST, else the first usual place that exists
  /// What an environment gets whose image is "host" (no engine can show this machine's own root):
  /// an image the engine holds, or the path of an archive (`docker save`, OCI or root tarball).
  std::string image;
  std::filesystem::path snapshot_dir;  // where snapshot() writes and open() reads; empty: neither
  size_t max_live = 1024;              // create, open and fork beyond it fail with SandboxError
};

/// Connects to the engine. Images are never fetched over a network. Environments must be destroyed
/// before their backend, whose destructor waits until their containers are removed. Errors:
/// Unsupported when there is no engine, with what was tried.
std::unique_ptr<Backend> make_container_backend(ContainerOptions options);

/// The socket make_container_backend would use. Errors: Unsupported.
std::string find_engine_socket(const std::string& configured);

/// What killed processes left behind in an engine: containers and images whose owner is gone, and
/// the images of snapshots whose files are.
struct ContainerLeftovers {
  std::vector<std::string> containers;  // ids
  std::vector<std::string> images;
};
/// Finds them and, unless `dry_run`, removes them. Errors: Unsupported, SandboxError.
ContainerLeftovers clean_containers(const std::string& socket, bool dry_run);

/// The baseline that forks are compared with: milliseconds of commit + create + start + exec of a
/// command, by the API alone, n times from one running container of the image. Errors: Unsupported,
/// SandboxError.
struct EngineTimings {
  std::string engine;  // name and version
  std::vector<double> commit_run_exec_ms;
};
EngineTimings time_commit_run_exec(const ContainerOptions& options, int n);

}  // namespace espalier::envs
