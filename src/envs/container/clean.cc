// What killed processes left in an engine, found by the labels on it.
#include <filesystem>

#include "common/error.h"
#include "envs/container/core.h"

namespace espalier::envs {
namespace {

using container::ApiCall;
using container::Engine;
using nlohmann::json;

std::string label_of(const json& object, const char* label) {
  const json labels = object.value("Labels", json::object());
  return labels.is_object() ? labels.value(label, "") : "";
}

json list(Engine& engine, const std::string& what) {
  ApiCall call;
  call.what = "list the " + what + " of the engine";
  call.path = "/" + what + "/json?all=1&filters=" +
              common::url_escape(json{{"label", {container::kOwnerLabel}}}.dump());
  return engine.call_json(call);
}

void remove(Engine& engine, const std::string& what, const std::string& id) {
  ApiCall call;
  call.what = "remove " + id;
  call.method = "DELETE";
  call.path = "/" + what + "/" + id + "?force=1" + (what == "containers" ? "&v=1" : "");
  call.may_miss = true;
  engine.call(call);
}

/// A snapshot's image is wanted for as long as the snapshot's file is there.
bool is_wanted(const json& image) {
  const std::string store = label_of(image, container::kStoreLabel);
  if (store.empty()) return !sandbox::owner_is_gone(label_of(image, container::kOwnerLabel));
  const json tags = image.value("RepoTags", json::array());
  if (!tags.is_array() || tags.empty())  // killed before it was named
    return !sandbox::owner_is_gone(label_of(image, container::kOwnerLabel));
  for (const auto& tag : tags) {
    const std::string name = tag;
    const std::string id = name.substr(name.rfind(':') + 1);
    std::error_code error;
    if (std::filesystem::exists(std::filesystem::path(store) / (id + ".json"), error)) return true;
  }
  return !sandbox::owner_is_gone(label_of(image, container::kOwnerLabel));
}

}  // namespace

ContainerLeftovers clean_containers(const std::string& socket, bool dry_run) {
  Engine engine(find_engine_socket(socket));
  ContainerLeftovers found;
  for (const json& object : list(engine, "containers"))
    if (sandbox::owner_is_gone(label_of(object, container::kOwnerLabel)))
      found.containers.push_back(object.at("Id"));
  for (const json& object : list(engine, "images"))
    if (!is_wanted(object)) found.images.push_back(object.at("Id"));
  if (dry_run) return found;
  for (const std::string& id : found.containers) remove(engine, "containers", id);
  // An image stands on others: as many rounds as there may be storeys, while one goes.
  std::vector<std::string> left = found.images;
  for (size_t before = left.size() + 1; !left.empty() && left.size() < before;) {
    before = left.size();
    std::vector<std::string> refused;
    for (const std::string& id : left) try {
        remove(engine, "images", id);
      } catch (const common::SandboxError&) {
        refused.push_back(id);
      }
    left = std::move(refused);
  }
  return found;
}

}  // namespace espalier::envs
