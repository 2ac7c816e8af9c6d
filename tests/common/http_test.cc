#include "common/http.h"

#include <gmock/gmock.h>

#include <future>

#include "http_server.h"

namespace espalier::common {
namespace {

using espalier::testing::each_request;
using espalier::testing::HttpServer;
using espalier::testing::ServedConnection;
using espalier::testing::ServedRequest;
using ::testing::HasSubstr;

HttpRequest request_to(const HttpServer& server, const std::string& path = "/") {
  HttpRequest request;
  request.url = "http://engine" + path;
  request.unix_socket = server.socket();
  return request;
}

void echo(ServedConnection& connection, const ServedRequest& request) {
  connection.answer(200, request.line + "\n" + request.body,
                    "X-Seen: " + std::to_string(request.body.size()) + "\r\n");
}

TEST(Http, SendsMethodPathHeadersAndBody) {
  std::string headers;
  HttpServer server(each_request([&](ServedConnection& connection, const ServedRequest& request) {
    headers = request.headers;
    echo(connection, request);
  }));
  HttpClient client;
  HttpRequest request = request_to(server, "/a/b?c=d");
  request.method = "PUT";
  request.headers["Content-Type"] = "text/plain";
  request.body = "some text";
  HttpResponse response = client.fetch(request);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "PUT /a/b?c=d HTTP/1.1\nsome text");
  EXPECT_EQ(response.headers.at("x-seen"), "9");
  EXPECT_THAT(headers, HasSubstr("content-type: text/plain\r\n"));
  request.method = "DELETE";
  request.body.clear();
  EXPECT_EQ(client.fetch(request).body, "DELETE /a/b?c=d HTTP/1.1\n");
  request.method = "POST";
  EXPECT_EQ(client.fetch(request).body, "POST /a/b?c=d HTTP/1.1\n");
  EXPECT_THAT(headers, HasSubstr("content-length: 0\r\n"));
  EXPECT_EQ(server.connections(), 1) << "a connection serves many requests";
}

TEST(Http, AnyStatusIsAnAnswer) {
  HttpServer server(each_request([](ServedConnection& connection, const ServedRequest&) {
    connection.answer(404, "{\"message\":\"no such thing\"}");
  }));
  HttpClient client;
  HttpRequest request = request_to(server);
  request.on_body = [](std::string_view) { return false; };
  HttpResponse response = client.fetch(request);
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(response.body, "{\"message\":\"no such thing\"}") << "only a 2xx body is streamed";
}

TEST(Http, StreamsInBothDirections) {
  HttpServer server(each_request([](ServedConnection& connection, const ServedRequest& request) {
    connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 3; ++i)
      connection.write("4\r\n" + request.body.substr(size_t(i), 3) + "|\r\n");
    connection.write("0\r\n\r\n");
  }));
  HttpClient client;
  HttpRequest request = request_to(server);
  request.method = "POST";
  int piece = 0;
  request.read_body = [&](char* buffer, size_t) {
    if (piece == 5) return size_t{0};
    *buffer = static_cast<char>('a' + piece++);
    return size_t{1};
  };
  std::string seen;
  request.on_body = [&](std::string_view text) {
    seen += text;
    return true;
  };
  HttpResponse response = client.fetch(request);
  EXPECT_EQ(seen, "abc|bcd|cde|");
  EXPECT_EQ(response.body, "");
  EXPECT_FALSE(response.truncated);
}

TEST(Http, AStreamMayBeLeftWhenItHasGivenEnough) {
  HttpServer server([](ServedConnection& connection) {
    ServedRequest request;
    connection.read_request(&request);
    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nstart");
    connection.read_some();  // until the client leaves
  });
  HttpClient client;
  HttpRequest request = request_to(server);
  std::string seen;
  request.on_body = [&](std::string_view text) {
    seen += text;
    return false;
  };
  HttpResponse response = client.fetch(request);
  EXPECT_EQ(seen, "start");
  EXPECT_EQ(response.status, 200);
  EXPECT_TRUE(response.truncated);
}

TEST(Http, ErrorsAreTyped) {
  HttpClient client;
  auto kind_of = [&](const HttpRequest& request) {
    try {
      client.fetch(request);
    } catch (const HttpError& e) {
      EXPECT_THAT(e.what(), HasSubstr("GET http://engine/"));
      return e.kind();
    }
    ADD_FAILURE() << "no error";
    return HttpError::Kind::broken;
  };
  HttpRequest nowhere;
  nowhere.url = "http://engine/";
  nowhere.unix_socket = "/nonexistent/socket";
  EXPECT_EQ(kind_of(nowhere), HttpError::Kind::connect);

  HttpServer silent([](ServedConnection& connection) {
    while (!connection.read_some().empty()) {
    }
  });
  HttpRequest request = request_to(silent);
  request.timeout = std::chrono::milliseconds(30);
  EXPECT_EQ(kind_of(request), HttpError::Kind::timeout);

  HttpServer broken([](ServedConnection& connection) {
    ServedRequest request;
    connection.read_request(&request);
    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
  });
  EXPECT_EQ(kind_of(request_to(broken)), HttpError::Kind::broken);

  HttpServer loud(each_request([](ServedConnection& connection, const ServedRequest&) {
    connection.answer(200, std::string(1000, 'x'));
  }));
  request = request_to(loud);
  request.max_body_bytes = 999;
  EXPECT_EQ(kind_of(request), HttpError::Kind::broken);
}

TEST(Http, ARequestCanBeCancelledAndOthersGoOn) {
  std::promise<void> arrived;
  HttpServer silent([&](ServedConnection& connection) {
    ServedRequest request;
    connection.read_request(&request);
    arrived.set_value();
    connection.read_some();
  });
  HttpServer server(each_request(echo));
  HttpClient client;
  std::promise<bool> cancelled;
  HttpCall call = client.send(request_to(silent), [&](Result<HttpResponse> r) {
    try {
      std::move(r).get();
      cancelled.set_value(false);
    } catch (const Cancelled&) {
      cancelled.set_value(true);
    }
  });
  arrived.get_future().get();
  EXPECT_EQ(client.fetch(request_to(server, "/x")).body, "GET /x HTTP/1.1\n");
  client.cancel(call);
  EXPECT_TRUE(cancelled.get_future().get());
  client.cancel(call);
  EXPECT_EQ(client.fetch(request_to(server)).status, 200);
}

TEST(Http, DestroyingTheClientCancelsWhatIsInProgress) {
  HttpServer silent([](ServedConnection& connection) {
    while (!connection.read_some().empty()) {
    }
  });
  int cancelled = 0;
  {
    HttpClient client;
    for (int i = 0; i < 3; ++i)
      client.send(request_to(silent), [&](Result<HttpResponse> r) {
        try {
          std::move(r).get();
        } catch (const Cancelled&) {
          ++cancelled;
        }
      });
  }
  EXPECT_EQ(cancelled, 3);
}

TEST(Http, ManyRequestsAtOnce) {
  HttpServer server(each_request(echo));
  HttpClient client;
  std::vector<std::promise<std::string>> bodies(50);
  for (size_t i = 0; i < bodies.size(); ++i)
    client.send(request_to(server, "/" + std::to_string(i)),
                [&, i](Result<HttpResponse> r) { bodies[i].set_value(std::move(r).get().body); });
  for (size_t i = 0; i < bodies.size(); ++i)
    EXPECT_EQ(bodies[i].get_future().get(), "GET /" + std::to_string(i) + " HTTP/1.1\n");
}

TEST(Http, AConnectionCanBeTakenOver) {
  HttpServer server([](ServedConnection& connection) {
    ServedRequest request;
    connection.read_request(&request);
    EXPECT_THAT(request.headers, HasSubstr("upgrade: tcp\r\n"));
    connection.write("HTTP/1.1 101 UPGRADED\r\nX-A: b\r\n\r\nfirst:" + request.body);
    connection.write("<" + connection.read_some() + ">");
  });
  HttpRequest request = request_to(server, "/attach");
  request.method = "POST";
  request.body = "{}";
  HttpUpgrade upgrade = http_upgrade(request, "tcp");
  ASSERT_GE(upgrade.socket, 0);
  EXPECT_EQ(upgrade.response.status, 101);
  EXPECT_EQ(upgrade.response.headers.at("x-a"), "b");
  std::string seen = upgrade.received;
  ASSERT_EQ(write(upgrade.socket, "hello", 5), 5);
  char buffer[100];
  for (ssize_t n; (n = read(upgrade.socket, buffer, sizeof buffer)) > 0;)
    seen.append(buffer, size_t(n));
  close(upgrade.socket);
  EXPECT_EQ(seen, "first:{}<hello>");
}

TEST(Http, ARefusedTakeOverSaysWhy) {
  HttpServer server(each_request([](ServedConnection& connection, const ServedRequest&) {
    connection.answer(409, "{\"message\":\"not running\"}");
  }));
  HttpUpgrade upgrade = http_upgrade(request_to(server), "tcp");
  EXPECT_EQ(upgrade.socket, -1);
  EXPECT_EQ(upgrade.response.status, 409);
  EXPECT_EQ(upgrade.response.body, "{\"message\":\"not running\"}");
  HttpRequest nowhere;
  nowhere.url = "http://engine/";
  nowhere.unix_socket = "/nonexistent/socket";
  EXPECT_THROW(http_upgrade(nowhere, "tcp"), HttpError);
}

TEST(Http, Escaping) { EXPECT_EQ(url_escape("a/b c~d\xff"), "a%2Fb%20c~d%FF"); }

}  // namespace
}  // namespace espalier::common
