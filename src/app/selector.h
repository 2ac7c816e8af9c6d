// How the fork rule meta_agent reaches its model: an OpenAI-compatible server over HTTP.
#pragma once

#include <functional>
#include <string>

#include "common/config.h"

namespace espalier::app {

/// POSTs a body to <url>/chat/completions and returns the answer's body; blocks up to timeout_s.
/// url: "http://host:port/v1", or "unix:/path/to/socket" (then /v1 on that socket). Thread
/// contract: any thread. Errors: ConfigError when the key's variable is not set; from the call
/// HttpError, and PolicyError for an answer of a status other than 200.
std::function<std::string(const std::string& body)> selector_of(
    const common::SelectorConfig& selector);

}  // namespace espalier::app
