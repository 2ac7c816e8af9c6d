// Durable states: the files stay in the engine as an image, DIR/<id>.json says the rest.
//
// The id is the SHA-256 of what the state is: the specification, the shell, the digests of the
// image's layers.
#include <filesystem>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"
#include "envs/container/container.h"

namespace espalier::envs::container {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kIdLength = 64;

json json_of(const EnvironmentSpec& spec) {
  const Limits& limits = spec.limits;
  return {{"workdir", spec.workdir},
          {"variables", spec.variables},
          {"network", spec.network},
          {"root", spec.root},
          {"limits",
           {{"memory_bytes", limits.memory_bytes},
            {"disk_bytes", limits.disk_bytes},
            {"disk_inodes", limits.disk_inodes},
            {"pids", limits.pids},
            {"cpus", limits.cpus},
            {"output_bytes", limits.output_bytes}}}};
}

EnvironmentSpec spec_of(const json& meta) {
  EnvironmentSpec spec;
  spec.workdir = meta.at("workdir");
  spec.variables = meta.at("variables");
  spec.network = meta.at("network");
  spec.root = meta.at("root");
  const json& limits = meta.at("limits");
  spec.limits.memory_bytes = limits.at("memory_bytes");
  spec.limits.disk_bytes = limits.at("disk_bytes");
  spec.limits.disk_inodes = limits.at("disk_inodes");
  spec.limits.pids = limits.at("pids");
  spec.limits.cpus = limits.at("cpus");
  spec.limits.output_bytes = limits.at("output_bytes");
  return spec;
}

/// Bytes of the shell's state need not be text: two hexadecimal digits a byte.
std::string hex_of(const std::string& bytes) {
  return common::to_hex(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::string bytes_of(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string id_of(const json& state) {
  const common::Digest digest = common::sha256(state.dump());
  return common::to_hex(digest.data(), digest.size());
}

std::string name_of_image(const std::string& id) {
  return std::string(kSnapshotRepository) + ":" + id;
}

fs::path directory_of(const Core& core, const std::string& what) {
  if (core.options.snapshot_dir.empty())
    throw common::StoreError(what + ": this backend has no snapshot directory");
  return fs::absolute(core.options.snapshot_dir);
}

}  // namespace

SnapshotId snapshot_container(Container& container) {
  Core& core = *container.core();
  const fs::path store = directory_of(core, "write a snapshot");
  json state = {{"version", kVersion},
                {"spec", json_of(container.seed().spec)},
                {"shell_hex", hex_of(container.session().dump())},
                {"last_exit_code", container.session().last_exit_code()}};
  const ImagePtr image = container.commit(store);
  state["layers"] = image->config().layers;
  const std::string id = id_of(state);
  ApiCall call;
  call.what = "name the image of a snapshot";
  call.method = "POST";
  call.path = "/images/" + image->id() + "/tag?repo=" + common::url_escape(kSnapshotRepository) +
              "&tag=" + id;
  core.engine.call(call);
  fs::create_directories(store);
  common::write_file_atomically(store / (id + ".json"), state.dump(1));
  return {id};
}

std::shared_ptr<Container> open_snapshot(const std::shared_ptr<Core>& core, const SnapshotId& id) {
  const fs::path store = directory_of(*core, "open a snapshot");
  if (id.hex.size() != kIdLength ||
      id.hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw common::StoreError("open the snapshot '" + id.hex + "': not the name of one");
  const fs::path place = store / (id.hex + ".json");
  const json state = json::parse(common::read_file(place), nullptr, false);
  if (state.is_discarded() || id_of(state) != id.hex || state.value("version", 0) != kVersion)
    throw common::StoreError("open the snapshot " + place.string() +
                             ": it is damaged, or of another version of this program");
  Seed seed;
  seed.spec = spec_of(state.at("spec"));
  seed.restore = bytes_of(state.at("shell_hex"));
  seed.last_exit_code = state.at("last_exit_code");
  seed.resumed = true;
  seed.image = core->inspect_image(name_of_image(id.hex), false, nullptr);
  if (!seed.image)
    throw common::StoreError("open the snapshot " + id.hex + ": the engine at " +
                             core->engine.socket() + " does not hold its image " +
                             name_of_image(id.hex) + " any more");
  if (seed.image->config().layers != state.at("layers").get<std::vector<std::string>>())
    throw common::StoreError("open the snapshot " + id.hex + ": the engine's image " +
                             name_of_image(id.hex) + " is another one by now");
  core->require_room("open a snapshot");
  return Container::start(core, std::move(seed));
}

}  // namespace espalier::envs::container
