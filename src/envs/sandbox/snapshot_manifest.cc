// Manifests as JSON.
#include "envs/sandbox/snapshot_manifest.h"

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 2;

// Text of commands may be any bytes: in JSON each byte stands as the code point of its value.
json bytes_to_json(const std::string& bytes) {
  std::string text;
  for (unsigned char c : bytes) {
    if (c < 0x80) {
      text += char(c);
    } else {
      text += char(0xC0 | (c >> 6));
      text += char(0x80 | (c & 0x3F));
    }
  }
  return text;
}

std::string bytes_from_json(const json& value) {
  std::string text = value.get<std::string>(), bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char c = (unsigned char)text[i];
    if (c < 0x80 || i + 1 == text.size()) {
      bytes += char(c);
    } else {
      bytes += char(((c & 0x03) << 6) | ((unsigned char)text[++i] & 0x3F));
    }
  }
  return bytes;
}

json limits_to_json(const Limits& limits) {
  return {{"memory_bytes", limits.memory_bytes},
          {"disk_bytes", limits.disk_bytes},
          {"disk_inodes", limits.disk_inodes},
          {"pids", limits.pids},
          {"cpus", limits.cpus},
          {"output_bytes", limits.output_bytes}};
}

Limits limits_from_json(const json& limits) {
  Limits out;
  out.memory_bytes = limits.at("memory_bytes").get<size_t>();
  out.disk_bytes = limits.at("disk_bytes").get<size_t>();
  out.disk_inodes = limits.at("disk_inodes").get<size_t>();
  out.pids = limits.at("pids").get<int>();
  out.cpus = limits.at("cpus").get<double>();
  out.output_bytes = limits.at("output_bytes").get<size_t>();
  return out;
}

json spec_to_json(const EnvironmentSpec& spec) {
  json variables = json::object(), session = json::array(), terminal;
  for (const auto& [name, value] : spec.variables) variables[name] = bytes_to_json(value);
  for (const std::string& argument : spec.session) session.push_back(bytes_to_json(argument));
  if (spec.terminal) terminal = {spec.terminal->columns, spec.terminal->rows};
  return {{"image", bytes_to_json(spec.image)},
          {"workdir", bytes_to_json(spec.workdir)},
          {"variables", variables},
          {"limits", limits_to_json(spec.limits)},
          {"network", spec.network},
          {"root", spec.root},
          {"session", session},
          {"terminal", terminal}};
}

EnvironmentSpec spec_from_json(const json& spec) {
  EnvironmentSpec out;
  out.image = bytes_from_json(spec.at("image"));
  out.workdir = bytes_from_json(spec.at("workdir"));
  for (const auto& [name, value] : spec.at("variables").items())
    out.variables[name] = bytes_from_json(value);
  out.limits = limits_from_json(spec.at("limits"));
  out.network = spec.at("network").get<bool>();
  out.root = spec.at("root").get<bool>();
  for (const json& argument : spec.at("session")) out.session.push_back(bytes_from_json(argument));
  if (const json& terminal = spec.at("terminal"); !terminal.is_null())
    out.terminal = TerminalSize{terminal.at(0).get<int>(), terminal.at(1).get<int>()};
  return out;
}

/// Everything but the layers.
json state_to_json(const SnapshotManifest& manifest) {
  return {{"version", kVersion},
          {"base", manifest.base},
          {"spec", spec_to_json(manifest.spec)},
          {"shell", bytes_to_json(manifest.shell)},
          {"last_exit_code", manifest.last_exit_code},
          {"state", manifest.state}};
}

std::string hex_of(std::string_view text) {
  auto digest = common::sha256(text);
  return common::to_hex(digest.data(), digest.size());
}

[[noreturn]] void damaged(const fs::path& path, const std::string& why) {
  throw common::StoreError("open the snapshot " + path.string() + ": " + why +
                           "; the file is damaged");
}

}  // namespace

SnapshotId snapshot_id(const SnapshotManifest& manifest) {
  return {hex_of("espalier snapshot\n" + state_to_json(manifest).dump())};
}

std::string encode_manifest(const SnapshotManifest& manifest) {
  json out = state_to_json(manifest);
  out["layers"] = manifest.layers;
  out["sum"] = hex_of(out.dump());
  return out.dump(1) + "\n";
}

SnapshotManifest read_manifest(const fs::path& path, const SnapshotId& id) {
  std::string text = common::read_file(path);
  try {
    json in = json::parse(text);
    int version = in.at("version").get<int>();
    if (version != kVersion)
      throw common::StoreError("open the snapshot " + path.string() + ": version " +
                               std::to_string(version) + "; this program reads " +
                               std::to_string(kVersion));
    std::string sum = in.at("sum").get<std::string>();
    in.erase("sum");
    if (hex_of(in.dump()) != sum) damaged(path, "its content does not match its sum");
    SnapshotManifest manifest;
    manifest.base = in.at("base").get<std::string>();
    manifest.spec = spec_from_json(in.at("spec"));
    manifest.shell = bytes_from_json(in.at("shell"));
    manifest.last_exit_code = in.at("last_exit_code").get<int>();
    manifest.state = in.at("state").get<std::string>();
    manifest.layers = in.at("layers").get<std::vector<std::string>>();
    SnapshotId found = snapshot_id(manifest);
    if (!(found == id)) damaged(path, "its content is that of " + found.hex);
    return manifest;
  } catch (const json::exception& e) {
    damaged(path, e.what());
  }
}

}  // namespace espalier::envs::sandbox
