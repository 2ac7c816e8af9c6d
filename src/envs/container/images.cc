// Images: what the engine holds, and archives that it is given. Nothing is fetched.
#include <archive.h>
#include <archive_entry.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "common/error.h"
#include "common/sha256.h"
#include "envs/container/core.h"

namespace espalier::envs::container {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kImportRepository = "localhost/espalier-import";
constexpr size_t kBlockBytes = 64 * 1024;

Image::Config config_of(const json& inspected) {
  Image::Config config;
  const json& image = inspected.value("Config", json::object());
  if (image.contains("User") && image["User"].is_string()) config.user = image["User"];
  if (image.contains("WorkingDir") && image["WorkingDir"].is_string())
    config.workdir = image["WorkingDir"];
  if (image.contains("Env") && image["Env"].is_array())
    for (const auto& entry : image["Env"]) {
      const std::string text = entry;
      const size_t equals = text.find('=');
      if (equals != std::string::npos)
        config.variables[text.substr(0, equals)] = text.substr(equals + 1);
    }
  if (inspected.contains("RootFS") && inspected["RootFS"].contains("Layers") &&
      inspected["RootFS"]["Layers"].is_array())
    config.layers = inspected["RootFS"]["Layers"].get<std::vector<std::string>>();
  return config;
}

/// The name of an image as part of a path: its slashes and colons stand as they are.
std::string escaped_name(const std::string& name) {
  std::string out;
  for (char c : name)
    out += c == '/' || c == ':' || c == '@' ? std::string(1, c) : common::url_escape({&c, 1});
  return out;
}

/// Whether the archive is an image (`docker save`, OCI) rather than a root file system.
bool holds_image(const fs::path& path) {
  std::unique_ptr<archive, decltype(&archive_read_free)> reader(archive_read_new(),
                                                                archive_read_free);
  archive_read_support_format_tar(reader.get());
  archive_read_support_filter_all(reader.get());
  if (archive_read_open_filename(reader.get(), path.c_str(), kBlockBytes) != ARCHIVE_OK)
    throw common::TaskError("read the image " + path.string() + ": " +
                            archive_error_string(reader.get()));
  archive_entry* entry = nullptr;
  int code;
  while ((code = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK) {
    const std::string name = archive_entry_pathname(entry) ? archive_entry_pathname(entry) : "";
    if (name == "manifest.json" || name == "index.json" || name == "oci-layout") return true;
  }
  if (code != ARCHIVE_EOF)
    throw common::TaskError("read the image " + path.string() +
                            ": not a tar archive: " + archive_error_string(reader.get()));
  return false;
}

std::string digest_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw common::TaskError("open the image " + path.string() + ": " + std::strerror(errno));
  common::Sha256 hash;
  std::vector<char> block(kBlockBytes);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount() > 0)
    hash.update(std::string_view(block.data(), static_cast<size_t>(file.gcount())));
  const common::Digest digest = hash.finish();
  return common::to_hex(digest.data(), digest.size());
}

/// Streams the archive to the engine; returns the id or name of the image made.
std::string upload(Engine& engine, const fs::path& path, bool image) {
  auto file = std::make_shared<std::ifstream>(path, std::ios::binary);
  ApiCall call;
  call.what = "give the engine the image " + path.string();
  call.method = "POST";
  call.path = image ? "/images/load?quiet=1" : "/images/create?fromSrc=-";
  call.read_body = [file](char* buffer, size_t size) {
    file->read(buffer, static_cast<std::streamsize>(size));
    return static_cast<size_t>(file->gcount());
  };
  const std::string answer = engine.call(call).body;
  // One JSON object a line: {"stream":"Loaded image: NAME"} or {"status":"sha256:ID"}.
  std::string found;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);) {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object()) continue;
    if (object.contains("error"))
      throw common::TaskError(call.what + ": " + object["error"].dump());
    std::string text = object.value("stream", object.value("status", ""));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    const size_t name = text.rfind(": ");
    if (text.rfind("Loaded image", 0) == 0 && name != std::string::npos)
      found = text.substr(name + 2);
    if (text.rfind("sha256:", 0) == 0) found = text;
  }
  if (found.empty())
    throw common::TaskError(call.what +
                            ": the engine does not say what it made: " + answer.substr(0, 300));
  return found;
}

void tag(Engine& engine, const std::string& image, const std::string& repository,
         const std::string& name) {
  ApiCall call;
  call.what = "name the image " + image;
  call.method = "POST";
  call.path = "/images/" + image + "/tag?repo=" + common::url_escape(repository) + "&tag=" + name;
  engine.call(call);
}

}  // namespace

ImagePtr Core::inspect_image(const std::string& id, bool temporary, ImagePtr parent) {
  ApiCall call;
  call.what = "look at the image " + id;
  call.path = "/images/" + escaped_name(id) + "/json";
  call.may_miss = true;
  const json inspected = engine.call_json(call);
  if (inspected.is_null()) return nullptr;
  return std::make_shared<Image>(weak_from_this(), inspected.at("Id").get<std::string>(),
                                 config_of(inspected), temporary, std::move(parent));
}

ImagePtr Core::find_image(const std::string& name) {
  const std::string wanted = name == kHostImage ? options.image : name;
  if (wanted.empty())
    throw common::SandboxError(
        "start a container: image 'host' is this machine's own root, which an engine cannot show; "
        "set env.image to an image that the engine holds, or to an archive of one");
  std::error_code error;
  if (wanted.find('/') == std::string::npos || !fs::is_regular_file(wanted, error)) {
    if (ImagePtr image = inspect_image(wanted, false, nullptr)) return image;
    throw common::SandboxError("start a container: the engine at " + engine.socket() +
                               " holds no image '" + wanted +
                               "', and none is fetched: pull, build or load it first, or name an "
                               "archive by its path");
  }
  std::lock_guard lock(import_mutex);
  const std::string digest = digest_of(wanted);
  const std::string known = std::string(kImportRepository) + ":" + digest;
  if (ImagePtr image = inspect_image(known, false, nullptr)) return image;
  tag(engine, upload(engine, wanted, holds_image(wanted)), kImportRepository, digest);
  return inspect_image(known, false, nullptr);
}

}  // namespace espalier::envs::container
