// Connections taken over from HTTP: libcurl connects, the exchange of headers is done here.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/http_detail.h"

namespace espalier::common {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kAnswerTimeout = std::chrono::seconds(60);
constexpr size_t kMaxHeaderBytes = 64 * 1024;

/// A descriptor closed with its owner unless released.
struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) close(fd);
  }
  int release() { return std::exchange(fd, -1); }
};

Socket connect_to(const HttpRequest& request) {
  http::ensure_curl();
  CURL* easy = curl_easy_init();
  if (!easy) throw Error("start a request: libcurl has no memory");
  char detail[CURL_ERROR_SIZE] = {0};
  http::set_connection_options(easy, request);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
  const CURLcode code = curl_easy_perform(easy);
  Socket ours;
  curl_socket_t theirs = CURL_SOCKET_BAD;
  if (code == CURLE_OK) curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &theirs);
  if (theirs != CURL_SOCKET_BAD) ours.fd = fcntl(theirs, F_DUPFD_CLOEXEC, 0);
  curl_easy_cleanup(easy);  // closes libcurl's own descriptor only
  if (code != CURLE_OK) throw http::error_of(request, code, detail);
  if (ours.fd < 0) throw http::error_of(request, CURLE_COULDNT_CONNECT, std::strerror(errno));
  return ours;
}

void wait_for(const HttpRequest& request, int fd, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) throw http::error_of(request, CURLE_OPERATION_TIMEDOUT, "no answer in time");
    pollfd wait{fd, events, 0};
    const int n = poll(&wait, 1, static_cast<int>(left));
    if (n > 0) return;
    if (n < 0 && errno != EINTR)
      throw http::error_of(request, CURLE_RECV_ERROR, std::strerror(errno));
  }
}

void send_all(const HttpRequest& request, int fd, std::string_view text,
              Clock::time_point deadline) {
  while (!text.empty()) {
    const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(request, fd, POLLOUT, deadline);
    } else if (errno != EINTR) {
      throw http::error_of(request, CURLE_SEND_ERROR, std::strerror(errno));
    }
  }
}

/// Appends what is there; false at the end of the stream.
bool receive(const HttpRequest& request, int fd, std::string* text, Clock::time_point deadline) {
  char buffer[16 * 1024];
  for (;;) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0) text->append(buffer, static_cast<size_t>(n));
    if (n >= 0) return n > 0;
    if (errno == EAGAIN) {
      wait_for(request, fd, POLLIN, deadline);
    } else if (errno != EINTR) {
      throw http::error_of(request, CURLE_RECV_ERROR, std::strerror(errno));
    }
  }
}

std::string request_text(const HttpRequest& request, const std::string& protocol) {
  const size_t host = request.url.find("://") + 3;
  const size_t path = std::min(request.url.find('/', host), request.url.size());
  std::string text = request.method + " " +
                     (path < request.url.size() ? request.url.substr(path) : "/") +
                     " HTTP/1.1\r\nHost: " + request.url.substr(host, path - host) +
                     "\r\nConnection: Upgrade\r\nUpgrade: " + protocol +
                     "\r\nContent-Length: " + std::to_string(request.body.size()) + "\r\n";
  for (const auto& [name, value] : request.headers)
    text.append(name).append(": ").append(value).append("\r\n");
  return text + "\r\n" + request.body;
}

}  // namespace

HttpUpgrade http_upgrade(const HttpRequest& request, const std::string& protocol) {
  if (request.url.rfind("http://", 0) != 0)
    throw Error("upgrade a connection: " + request.url + " is not an http:// address");
  Socket socket = connect_to(request);
  const auto timeout = request.timeout.count() > 0 ? Clock::duration(request.timeout)
                                                   : Clock::duration(kAnswerTimeout);
  const auto deadline = Clock::now() + timeout;
  send_all(request, socket.fd, request_text(request, protocol), deadline);

  HttpUpgrade upgrade;
  std::string text;
  size_t end;
  while ((end = text.find("\r\n\r\n")) == std::string::npos) {
    if (text.size() > kMaxHeaderBytes || !receive(request, socket.fd, &text, deadline))
      throw http::error_of(request, CURLE_WEIRD_SERVER_REPLY, "the answer ends in its headers");
  }
  for (size_t start = 0; start < end;) {
    const size_t line_end = text.find("\r\n", start);
    const std::string_view line(text.data() + start, line_end - start);
    if (start == 0 && line.size() >= 12)
      upgrade.response.status = std::atoi(std::string(line.substr(9, 3)).c_str());
    http::take_header(line, &upgrade.response);
    start = line_end + 2;
  }
  upgrade.received = text.substr(end + 4);
  if (upgrade.response.status == 101 || upgrade.response.status == 200) {
    fcntl(socket.fd, F_SETFL, fcntl(socket.fd, F_GETFL) & ~O_NONBLOCK);
    upgrade.socket = socket.release();
    return upgrade;
  }
  // A refusal: its body says why. The server may keep the connection open behind it.
  const auto length = upgrade.response.headers.find("content-length");
  const size_t expected =
      length == upgrade.response.headers.end()
          ? kMaxHeaderBytes
          : std::min<size_t>(std::strtoull(length->second.c_str(), nullptr, 10), kMaxHeaderBytes);
  upgrade.response.body = std::exchange(upgrade.received, "");
  while (upgrade.response.body.size() < expected &&
         upgrade.response.body.find("\r\n0\r\n\r\n") == std::string::npos &&
         receive(request, socket.fd, &upgrade.response.body, deadline)) {
  }
  return upgrade;
}

}  // namespace espalier::common
