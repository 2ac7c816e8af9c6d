// The engine's HTTP API: one call at a time, errors translated.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/http.h"

namespace espalier::envs::container {

/// One call of the API.
struct ApiCall {
  std::string what;  // "start the container": opens the message of an error
  std::string method = "GET";
  std::string path;     // "/containers/json?all=1", below the API's version
  nlohmann::json json;  // the body, unless null
  std::string body;     // else this …
  std::function<size_t(char*, size_t)> read_body;  // … or this (common/http.h)
  std::function<bool(std::string_view)> on_body;
  bool may_miss = false;  // 404 is an answer, not an error
  std::chrono::milliseconds timeout{300'000};
};

/// Thread contract: any thread; calls block.
class Engine {
 public:
  /// Asks the engine for its versions. Errors: Unsupported when nothing answers at the socket.
  explicit Engine(std::string socket);

  /// Errors: SandboxError with the engine's own words.
  common::HttpResponse call(const ApiCall& call);
  nlohmann::json call_json(const ApiCall& call);
  /// Takes the connection over. Errors: SandboxError.
  common::HttpUpgrade attach(const ApiCall& call);

  const std::string& socket() const { return socket_; }
  const std::string& name() const { return name_; }  // "Podman Engine 4.3.1"

 private:
  common::HttpRequest request_for(const ApiCall& call) const;
  void check(const ApiCall& call, const common::HttpResponse& response) const;

  std::string socket_;
  std::string prefix_;  // "http://engine/v1.41"
  std::string name_;
  common::HttpClient client_;
};

}  // namespace espalier::envs::container
