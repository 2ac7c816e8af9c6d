#include "envs/container/engine.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "common/error.h"
#include "envs/container/backend.h"

namespace espalier::envs {
namespace container {
namespace {

constexpr const char* kHost = "http://engine";
constexpr const char* kApiVersion = "1.41";  // of Docker 20.10 and podman 3 and later
constexpr auto kVersionTimeout = std::chrono::seconds(20);

/// What the engine says about an error.
std::string message_of(const common::HttpResponse& response) {
  const auto json = nlohmann::json::parse(response.body, nullptr, false);
  if (json.is_object() && json.contains("message") && json["message"].is_string())
    return json["message"];
  return response.body.substr(0, 500);
}

/// Whether version a ("1.44") is above b.
bool above(const std::string& a, const std::string& b) {
  int major[2] = {0, 0}, minor[2] = {0, 0};
  std::sscanf(a.c_str(), "%d.%d", &major[0], &minor[0]);
  std::sscanf(b.c_str(), "%d.%d", &major[1], &minor[1]);
  return std::pair(major[0], minor[0]) > std::pair(major[1], minor[1]);
}

std::string text_at(const nlohmann::json& json, const char* key) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

}  // namespace

Engine::Engine(std::string socket) : socket_(std::move(socket)) {
  prefix_ = kHost;
  ApiCall call;
  call.what = "ask the container engine for its version";
  call.path = "/version";
  call.timeout = kVersionTimeout;
  nlohmann::json version;
  try {
    version = call_json(call);
  } catch (const common::SandboxError& e) {
    throw common::Unsupported(std::string(e.what()) +
                              "; start one (`podman system service`, dockerd) or set "
                              "env.engine_socket");
  }
  std::string product = "container engine", number = text_at(version, "Version");
  if (version.contains("Components") && !version["Components"].empty()) {
    const auto& first = version["Components"][0];
    product = text_at(first, "Name") == "Engine" ? "Docker Engine" : text_at(first, "Name");
    if (!text_at(first, "Version").empty()) number = text_at(first, "Version");
  }
  name_ = product + " " + number;
  const std::string least = text_at(version, "MinAPIVersion");
  prefix_ += "/v" + (above(least, kApiVersion) ? least : kApiVersion);
}

common::HttpRequest Engine::request_for(const ApiCall& call) const {
  common::HttpRequest request;
  request.method = call.method;
  request.url = prefix_ + call.path;
  request.unix_socket = socket_;
  request.timeout = call.timeout;
  if (!call.json.is_null()) {
    request.headers["Content-Type"] = "application/json";
    request.body = call.json.dump();
  } else if (!call.body.empty() || call.read_body) {
    request.headers["Content-Type"] = "application/x-tar";
    request.body = call.body;
    request.read_body = call.read_body;
  }
  request.on_body = call.on_body;
  return request;
}

void Engine::check(const ApiCall& call, const common::HttpResponse& response) const {
  const int kind = response.status / 100;
  // 304: it is as wanted already. 101: the connection is ours.
  if (kind == 2 || response.status == 304 || response.status == 101) return;
  if (response.status == 404 && call.may_miss) return;
  throw common::SandboxError(call.what + ": the engine at " + socket_ + " refuses (HTTP " +
                             std::to_string(response.status) + "): " + message_of(response));
}

common::HttpResponse Engine::call(const ApiCall& call) {
  common::HttpResponse response;
  try {
    response = client_.fetch(request_for(call));
  } catch (const common::HttpError& e) {
    throw common::SandboxError(call.what + ": " + e.what());
  }
  check(call, response);
  return response;
}

nlohmann::json Engine::call_json(const ApiCall& api_call) {
  common::HttpResponse response = call(api_call);
  if (response.status == 404) return nullptr;
  auto json = nlohmann::json::parse(response.body, nullptr, false);
  if (json.is_discarded())
    throw common::SandboxError(api_call.what + ": the engine at " + socket_ +
                               " answers what is no JSON: " + response.body.substr(0, 200));
  return json;
}

common::HttpUpgrade Engine::attach(const ApiCall& call) {
  try {
    common::HttpUpgrade upgrade = common::http_upgrade(request_for(call), "tcp");
    check(call, upgrade.response);
    return upgrade;
  } catch (const common::HttpError& e) {
    throw common::SandboxError(call.what + ": " + e.what());
  }
}

}  // namespace container

std::string find_engine_socket(const std::string& configured) {
  if (!configured.empty()) return configured;
  const std::string scheme = "unix://";
  if (const char* host = std::getenv("DOCKER_HOST"); host && *host) {
    const std::string text = host;
    if (text.rfind(scheme, 0) != 0)
      throw common::Unsupported("find a container engine: DOCKER_HOST is '" + text +
                                "'; only unix:// sockets can be used");
    return text.substr(scheme.size());
  }
  std::vector<std::string> places = {"/run/docker.sock", "/var/run/docker.sock",
                                     "/run/podman/podman.sock"};
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime && *runtime)
    places.insert(places.begin(), std::string(runtime) + "/podman/podman.sock");
  std::string tried;
  for (const std::string& place : places) {
    std::error_code error;
    if (std::filesystem::is_socket(place, error)) return place;
    tried += (tried.empty() ? "" : ", ") + place;
  }
  throw common::Unsupported(
      "find a container engine: no socket at " + tried +
      "; start one (`podman system service --time=0 unix:///PATH`, dockerd) and set DOCKER_HOST or "
      "env.engine_socket");
}

}  // namespace espalier::envs
