#include "conformance.h"
#include "engine_service.h"
#include "envs/container/backend.h"

namespace espalier::envs::testing {
namespace {

/// The local backend, with one of its options set.
auto sandbox(bool SandboxOptions::*option = nullptr) {
  return [option](const std::filesystem::path& snapshots) {
    SandboxOptions options;
    options.snapshot_dir = snapshots;
    if (option) options.*option = true;
    return make_sandbox_backend(options);
  };
}

/// podman's service, started for the tests.
std::unique_ptr<Backend> container(const std::filesystem::path& snapshots) {
  ContainerOptions options;
  options.socket = EngineService::shared().socket();
  options.image = EngineService::shared().image();
  options.snapshot_dir = snapshots;
  return make_container_backend(options);
}

}  // namespace

std::vector<Subject> conformance_subjects() {
  return {
      {"sandbox", sandbox()},
      {.name = "sandbox_disk_upper",
       .make = sandbox(&SandboxOptions::force_disk_upper),
       .lacks = {{"disk_limit", "files on disk have no cap"}}},
      {"sandbox_without_cgroups", sandbox(&SandboxOptions::force_rlimits)},
      {.name = "container",
       .make = container,
       .lacks = {{"disk_limit", "engines cap a single file only on most file systems"}}},
  };
}

INSTANTIATE_TEST_SUITE_P(Subjects, Conformance, ::testing::ValuesIn(conformance_subjects()),
                         [](const auto& info) { return info.param.name; });

}  // namespace espalier::envs::testing
