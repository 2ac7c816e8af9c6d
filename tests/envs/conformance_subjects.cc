#include "conformance.h"
#include "engine_service.h"
#include "envs/container/backend.h"
#include "envs/image/layout.h"
#include "image_fixture.h"

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

/// Images of this machine's programs, made once: a root's directory, and an OCI layout with a layer
/// over it.
class HostImages {
 public:
  static HostImages& shared() {
    static HostImages images;
    return images;
  }
  std::string directory() const { return "dir:" + (place_.path() / "root").string(); }
  std::string layout() const { return (place_.path() / "oci").string(); }
  std::filesystem::path cache() const { return place_.path() / "cache"; }

 private:
  HostImages() {
    const std::string place = place_.path().string(), tar = place + "/root.tar";
    if (host(std::string(ESPALIER_SOURCE_DIR) + "/scripts/host_root.sh " + tar + " && mkdir " +
             place + "/root && tar -C " + place + "/root -xf " + tar) != 0)
      throw common::SandboxError("scripts/host_root.sh fails");
    HandMadeImage image;
    image.architecture = image::machine_architecture();
    image.layers = {bytes_of_file(tar), HandMadeTar().file("etc/layer", "over\n").bytes()};
    image.run_config = R"({"Env":["PATH=/usr/bin"],"WorkingDir":"/app","User":"1000"})";
    image.write_oci(layout(), false);
  }
  common::TempDir place_{"espalier-host-image"};
};

Subject over_image(const std::string& name, std::string (HostImages::*image)() const) {
  auto make = [](const std::filesystem::path& snapshots) {
    SandboxOptions options;
    options.snapshot_dir = snapshots;
    options.image_cache = HostImages::shared().cache();
    return make_sandbox_backend(options);
  };
  return {.name = name, .make = make, .image = [image] { return (HostImages::shared().*image)(); }};
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
      over_image("sandbox_over_a_directory", &HostImages::directory),
      over_image("sandbox_over_a_layout", &HostImages::layout),
      {.name = "container",
       .make = container,
       .lacks = {{"disk_limit", "engines cap a single file only on most file systems"}}},
  };
}

INSTANTIATE_TEST_SUITE_P(Subjects, Conformance, ::testing::ValuesIn(conformance_subjects()),
                         [](const auto& info) { return info.param.name; });

}  // namespace espalier::envs::testing
