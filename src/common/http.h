// A small HTTP client over TCP or a unix socket: many requests at once on one thread, streaming in
// both directions, deadlines, cancellation.
//
// An answer of any status is a response, not an error: what a status means is the caller's to say.
// Errors are HttpError: no connection, a deadline that passed, a connection that broke.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/result.h"

namespace espalier::common {

/// No answer came. The message names method, address and socket, and says what to look at.
class HttpError : public Error {
 public:
  enum class Kind { connect, timeout, broken };
  HttpError(Kind kind, const std::string& message) : Error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;          // "http://host[:port]/path?query"; https where libcurl has it
  std::string unix_socket;  // path to connect to instead of the host of the url; empty: TCP
  std::map<std::string, std::string> headers;
  std::string body;
  /// Takes the place of body when set: fills the buffer and returns the bytes written; 0: the end.
  /// Sent in chunks. Called on the client's thread; must not block or throw.
  std::function<size_t(char* buffer, size_t size)> read_body;
  /// Takes the body of an answer of status 2xx piece by piece when set (other bodies are kept in
  /// the response as usual). Returns false when it has enough: the request then ends as done, its
  /// response `truncated`. Called on the client's thread; must not block or throw.
  std::function<bool(std::string_view piece)> on_body;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds timeout{0};       // of the whole exchange; 0: none
  size_t max_body_bytes = size_t{256} << 20;  // kept of a body: one longer breaks the request
};

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool truncated = false;  // on_body had enough
};

/// Names a request in progress.
struct HttpCall {
  uint64_t number = 0;
};

/// Thread contract: any thread. Completions and the callbacks of requests come on the client's own
/// thread and must not block, nor wait for this client. The destructor cancels what is in progress
/// and joins; it must not run on the client's thread.
class HttpClient {
 public:
  /// Errors: Error when libcurl cannot start.
  HttpClient();
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Errors of done: HttpError, Cancelled.
  HttpCall send(HttpRequest request, Completion<HttpResponse> done);
  /// The request ends at once with Cancelled; nothing happens when it is over already.
  void cancel(HttpCall call);

  /// Sends and waits for the answer. Not on the client's thread. Errors: HttpError, Cancelled.
  HttpResponse fetch(HttpRequest request);

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

/// A connection taken over from HTTP.
struct HttpUpgrade {
  HttpResponse response;  // status 101, or 200 with a body that never ends: the socket is ours
  int socket = -1;        // blocking; owned by the caller; -1 with any other status
  std::string received;   // bytes of the new protocol that came with the answer
};

/// Sends the request on a connection of its own, with "Connection: Upgrade", and hands the
/// connection over when the server agrees. Blocks for at most connect_timeout + timeout (none: 60
/// s). Any thread. Errors: HttpError.
HttpUpgrade http_upgrade(const HttpRequest& request, const std::string& protocol);

/// For a part of a path or query: everything but letters, digits and "-._~" as %XX.
std::string url_escape(std::string_view text);

}  // namespace espalier::common
