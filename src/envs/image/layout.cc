#include "envs/image/layout.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/sha256.h"

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxDocumentBytes = 16 << 20;
constexpr int kMaxIndexDepth = 4;
constexpr size_t kMaxLayers = 256;

/// One layout being read: its directory and how messages call it.
class Reader {
 public:
  Reader(const fs::path& directory, const std::string& source)
      : directory_(directory), source_(source) {}

  Layout read_oci() const {
    json manifest = pick(document("index.json"), "index.json", 0);
    const json& config = member(manifest, "config", "the manifest");
    std::string digest = hex_of(text(config, "digest", "the manifest's config"));
    Layout layout = read_config(blob(digest), digest);
    const json& layers = member(manifest, "layers", "the manifest");
    if (layers.size() != layout.layers.size())
      refuse("the manifest", "has " + std::to_string(layers.size()) +
                                 " layers, its configuration " +
                                 std::to_string(layout.layers.size()));
    for (size_t i = 0; i < layers.size(); ++i) {
      layout.layers[i].blob = hex_of(text(layers[i], "digest", "a layer of the manifest"));
      layout.layers[i].path = "blobs/sha256/" + layout.layers[i].blob;
    }
    return layout;
  }

  Layout read_docker() const {
    json manifest = document("manifest.json");
    if (!manifest.is_array() || manifest.empty()) refuse("manifest.json", "lists no image");
    if (manifest.size() > 1)
      refuse("manifest.json", "lists " + std::to_string(manifest.size()) +
                                  " images; save one alone: docker save NAME");
    const json& image = manifest[0];
    std::string bytes = read(text(image, "Config", "manifest.json"));
    Layout layout = read_config(bytes, sha256_hex(bytes));
    const json& layers = member(image, "Layers", "manifest.json");
    if (layers.size() != layout.layers.size())
      refuse("manifest.json", "has " + std::to_string(layers.size()) +
                                  " layers, the image's configuration " +
                                  std::to_string(layout.layers.size()));
    for (size_t i = 0; i < layers.size(); ++i) {
      if (!layers[i].is_string()) refuse("manifest.json", "has a layer that is no path");
      layout.layers[i].path = layers[i].get<std::string>();
    }
    return layout;
  }

 private:
  [[noreturn]] void refuse(const std::string& where, const std::string& why) const {
    throw common::TaskError(source_ + ": " + where + " " + why);
  }

  static std::string sha256_hex(const std::string& bytes) {
    auto digest = common::sha256(bytes);
    return common::to_hex(digest.data(), digest.size());
  }

  const json& member(const json& object, const char* key, const std::string& where) const {
    if (!object.is_object() || !object.contains(key))
      refuse(where, std::string("has no '") + key + "'");
    return object.at(key);
  }

  std::string text(const json& object, const char* key, const std::string& where) const {
    const json& value = member(object, key, where);
    if (!value.is_string()) refuse(where, std::string("has a '") + key + "' that is no text");
    return value.get<std::string>();
  }

  std::string hex_of(const std::string& digest) const {
    constexpr std::string_view kPrefix = "sha256:";
    std::string hex = digest.starts_with(kPrefix) ? digest.substr(kPrefix.size()) : "";
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
      refuse("the digest '" + digest + "'", "is not sha256: and 64 hexadecimal digits");
    return hex;
  }

  std::string read(const std::string& path) const {
    sandbox::Fd file = open_below(directory_, path, source_);
    struct stat st;
    if (fstat(file.get(), &st) || size_t(st.st_size) > kMaxDocumentBytes)
      refuse("'" + path + "'", "is larger than a description of an image can be");
    std::string bytes(size_t(st.st_size), '\0');
    if (::read(file.get(), bytes.data(), bytes.size()) != ssize_t(bytes.size()))
      refuse("'" + path + "'", "cannot be read");
    return bytes;
  }

  json parse(const std::string& bytes, const std::string& where) const {
    json value = json::parse(bytes, nullptr, false);
    if (value.is_discarded()) refuse(where, "is not JSON");
    return value;
  }

  json document(const std::string& path) const { return parse(read(path), "'" + path + "'"); }

  /// A blob of JSON, checked against its digest.
  std::string blob(const std::string& hex) const {
    std::string path = "blobs/sha256/" + hex, bytes = read(path), actual = sha256_hex(bytes);
    if (actual != hex) refuse("'" + path + "'", "does not match its digest; it has " + actual);
    return bytes;
  }

  static bool for_this_machine(const json& descriptor) {
    if (!descriptor.contains("platform")) return true;
    const json& platform = descriptor["platform"];
    return platform.is_object() &&
           platform.value("architecture", json()) == machine_architecture() &&
           platform.value("os", json("linux")) == "linux";
  }

  /// The manifest of the one image an index leads to.
  json pick(const json& index, const std::string& where, int depth) const {
    if (depth > kMaxIndexDepth) refuse(where, "is nested too deeply");
    const json& manifests = member(index, "manifests", where);
    std::vector<const json*> fitting;
    for (const json& descriptor : manifests)
      if (for_this_machine(descriptor)) fitting.push_back(&descriptor);
    if (fitting.empty())
      refuse(where, "has no image for linux/" + machine_architecture() + " (" +
                        std::to_string(manifests.size()) + " for other platforms)");
    if (fitting.size() > 1)
      refuse(where, "lists " + std::to_string(fitting.size()) + " images; keep one of them");
    std::string digest = hex_of(text(*fitting[0], "digest", where));
    json document = parse(blob(digest), "blob " + digest);
    if (document.is_object() && document.contains("manifests"))
      return pick(document, "blob " + digest, depth + 1);
    return document;
  }

  Layout read_config(const std::string& bytes, const std::string& digest) const {
    const std::string where = "the image's configuration";
    json document = parse(bytes, where);
    Layout layout;
    layout.config_digest = digest;
    layout.config.present = true;
    std::string architecture = text(document, "architecture", where);
    if (architecture != machine_architecture())
      refuse(where,
             "says it is for " + architecture + "; this machine is " + machine_architecture());
    const json& ids = member(member(document, "rootfs", where), "diff_ids", where);
    if (!ids.is_array() || ids.empty() || ids.size() > kMaxLayers)
      refuse(where, "must have from 1 to " + std::to_string(kMaxLayers) + " layers");
    for (const json& id : ids) {
      if (!id.is_string()) refuse(where, "has a diff_id that is no text");
      layout.layers.push_back({"", "", hex_of(id.get<std::string>())});
    }
    if (document.contains("config") && document["config"].is_object())
      read_run_config(document["config"], where, &layout.config);
    return layout;
  }

  void read_run_config(const json& run, const std::string& where, ImageConfig* config) const {
    auto optional_text = [&](const char* key) {
      return run.contains(key) && run[key].is_string() ? run[key].get<std::string>() : "";
    };
    config->workdir = optional_text("WorkingDir");
    config->user = optional_text("User");
    if (!run.contains("Env") || !run["Env"].is_array()) return;
    for (const json& entry : run["Env"]) {
      std::string pair = entry.is_string() ? entry.get<std::string>() : "";
      size_t equals = pair.find('=');
      if (equals == 0 || equals == std::string::npos)
        refuse(where, "has the entry " + entry.dump() + " in Env, which is not NAME=VALUE");
      config->variables[pair.substr(0, equals)] = pair.substr(equals + 1);
    }
  }

  const fs::path& directory_;
  const std::string& source_;
};

bool exists_below(const fs::path& directory, const char* name) {
  std::error_code error;
  return fs::is_regular_file(directory / name, error);
}

}  // namespace

std::string machine_architecture() {
  utsname name{};
  uname(&name);
  std::string machine = name.machine;
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  return machine;
}

sandbox::Fd open_below(const fs::path& directory, const std::string& path,
                       const std::string& source) {
  sandbox::Fd base(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  sandbox::Fd file(int(syscall(SYS_openat2, base.get(), path.c_str(), &how, sizeof how)));
  struct stat st;
  if (!file || fstat(file.get(), &st) || !S_ISREG(st.st_mode))
    throw common::TaskError(source + ": it has no file '" + path + "'" +
                            (file ? "" : std::string(": ") + std::strerror(errno)));
  return file;
}

bool is_layout(const fs::path& directory) {
  return exists_below(directory, "index.json") || exists_below(directory, "manifest.json");
}

Layout read_layout(const fs::path& directory, const std::string& source) {
  Reader reader(directory, source);
  if (exists_below(directory, "index.json")) return reader.read_oci();
  return reader.read_docker();
}

}  // namespace espalier::envs::image
