#include "app/selector.h"

#include <fmt/core.h>

#include <cstdlib>
#include <memory>

#include "common/error.h"
#include "common/http.h"

namespace espalier::app {

std::function<std::string(const std::string& body)> selector_of(
    const common::SelectorConfig& selector) {
  constexpr const char* kUnix = "unix:";
  common::HttpRequest request;
  request.method = "POST";
  request.headers["Content-Type"] = "application/json";
  request.timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * selector.timeout_s));
  if (selector.url.starts_with(kUnix)) {
    request.unix_socket = selector.url.substr(std::string(kUnix).size());
    request.url = "http://localhost/v1/chat/completions";
  } else {
    request.url = selector.url + (selector.url.ends_with('/') ? "" : "/") + "chat/completions";
  }
  if (!selector.api_key_env.empty()) {
    const char* key = std::getenv(selector.api_key_env.c_str());
    if (!key)
      throw common::ConfigError(
          fmt::format("algorithm.tree.selector.api_key_env: the environment variable '{}' is not "
                      "set",
                      selector.api_key_env));
    request.headers["Authorization"] = std::string("Bearer ") + key;
  }
  const auto client = std::make_shared<common::HttpClient>();
  return [client, request](const std::string& body) {
    common::HttpRequest call = request;
    call.body = body;
    const common::HttpResponse answer = client->fetch(std::move(call));
    if (answer.status != 200)
      throw common::PolicyError(
          fmt::format("{}: status {}: {}", request.url, answer.status, answer.body.substr(0, 200)));
    return answer.body;
  };
}

}  // namespace espalier::app
