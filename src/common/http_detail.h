// Shared by the parts of the HTTP client. Private to common/http*.cc.
#pragma once

#include <curl/curl.h>

#include <string>
#include <string_view>

#include "common/http.h"

namespace espalier::common::http {

/// Starts libcurl once a process. Errors: Error.
void ensure_curl();
/// "GET http://… over /path.sock", for messages.
std::string name_of(const HttpRequest& request);
HttpError error_of(const HttpRequest& request, CURLcode code, const char* detail);
/// Takes one header line of an answer; a status line begins anew.
void take_header(std::string_view line, HttpResponse* response);
/// Where to connect and for how long to try.
void set_connection_options(CURL* easy, const HttpRequest& request);

}  // namespace espalier::common::http
