// A scripted HTTP server on a unix socket: each connection is given to a function, on its own
// thread.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/files.h"

namespace espalier::testing {

/// One request as it came.
struct ServedRequest {
  std::string line;     // "GET /path HTTP/1.1"
  std::string headers;  // raw, in lower case
  std::string body;
};

/// The server's end of a connection. One thread.
class ServedConnection {
 public:
  explicit ServedConnection(int fd) : fd_(fd) {}

  void write(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<size_t>(n);
    }
  }
  /// Empty at the end of the stream.
  std::string read_some() {
    if (!pending_.empty()) return std::exchange(pending_, "");
    char buffer[4096];
    const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  /// false at the end of the stream.
  bool read_request(ServedRequest* request) {
    size_t end;
    std::string text;
    while ((end = text.find("\r\n\r\n")) == std::string::npos) {
      const std::string piece = read_some();
      if (piece.empty()) return false;
      text += piece;
    }
    request->line = text.substr(0, text.find("\r\n"));
    request->headers = text.substr(request->line.size() + 2, end - request->line.size());
    for (char& c : request->headers)
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    pending_ = text.substr(end + 4);
    request->body = request->headers.find("transfer-encoding: chunked") != std::string::npos
                        ? read_chunks()
                        : read_exactly(header_number(request->headers, "content-length: "));
    return true;
  }
  void answer(int status, const std::string& body, const std::string& headers = "") {
    write("HTTP/1.1 " + std::to_string(status) + " Said\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body);
  }

 private:
  static size_t header_number(const std::string& headers, const std::string& name) {
    const size_t at = headers.find(name);
    return at == std::string::npos ? 0
                                   : std::strtoull(headers.c_str() + at + name.size(), nullptr, 10);
  }
  std::string read_exactly(size_t size) {
    std::string out = std::exchange(pending_, "");
    while (out.size() < size) {
      const std::string piece = read_some();
      if (piece.empty()) return out;
      out += piece;
    }
    pending_ = out.substr(size);
    return out.substr(0, size);
  }
  std::string read_line() {
    std::string line;
    for (;;) {
      line += read_exactly(1);
      if (line.empty() || line.back() == '\n') return line;
    }
  }
  std::string read_chunks() {
    std::string out;
    for (;;) {
      const size_t size = std::strtoull(read_line().c_str(), nullptr, 16);
      out += read_exactly(size);
      read_exactly(2);
      if (size == 0) return out;
    }
  }

  int fd_;
  std::string pending_;
};

class HttpServer {
 public:
  using Serve = std::function<void(ServedConnection&)>;

  explicit HttpServer(Serve serve) : serve_(std::move(serve)) {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) ||
        listen(listener_, 128))
      ADD_FAILURE() << "listen on " << socket() << ": " << std::strerror(errno);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~HttpServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      std::lock_guard lock(mutex_);
      for (int fd : connections_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
    for (int fd : connections_) close(fd);
    close(listener_);
  }
  std::string socket() const { return directory_.path() / "http.sock"; }
  int connections() const { return count_; }

 private:
  void accept_all() {
    int fd;
    while ((fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0) {
      ++count_;
      std::lock_guard lock(mutex_);
      connections_.push_back(fd);
      threads_.emplace_back([this, fd] {
        ServedConnection connection(fd);
        serve_(connection);
        shutdown(fd, SHUT_RDWR);
      });
    }
  }

  common::TempDir directory_{"espalier-http-test"};
  Serve serve_;
  int listener_ = -1;
  std::atomic<int> count_{0};
  std::mutex mutex_;
  std::vector<int> connections_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

/// Answers every request of a connection with `answer`.
inline HttpServer::Serve each_request(
    std::function<void(ServedConnection&, const ServedRequest&)> answer) {
  return [answer](ServedConnection& connection) {
    ServedRequest request;
    while (connection.read_request(&request)) answer(connection, request);
  };
}

}  // namespace espalier::testing
