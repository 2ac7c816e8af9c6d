#include "conformance.h"

namespace espalier::envs::testing {
namespace {

auto sandbox(SandboxOptions options) {
  return [options](const std::filesystem::path& snapshots) mutable {
    options.snapshot_dir = snapshots;
    return make_sandbox_backend(options);
  };
}

}  // namespace

std::vector<Subject> conformance_subjects() {
  return {
      {"sandbox", sandbox({})},
      {"sandbox_disk_upper", sandbox({.force_disk_upper = true})},
      {"sandbox_without_cgroups", sandbox({.force_rlimits = true})},
  };
}

INSTANTIATE_TEST_SUITE_P(Subjects, Conformance, ::testing::ValuesIn(conformance_subjects()),
                         [](const auto& info) { return info.param.name; });

}  // namespace espalier::envs::testing
