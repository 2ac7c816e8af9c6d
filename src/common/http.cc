#include "common/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/http_detail.h"

namespace espalier::common {
namespace http {

void ensure_curl() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) throw Error(std::string("start libcurl: ") + curl_easy_strerror(code));
}

std::string name_of(const HttpRequest& request) {
  std::string name = request.method + " " + request.url;
  if (!request.unix_socket.empty()) name += " over " + request.unix_socket;
  return name;
}

HttpError error_of(const HttpRequest& request, CURLcode code, const char* detail) {
  const std::string text = name_of(request) + ": " + (*detail ? detail : curl_easy_strerror(code));
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
      return {HttpError::Kind::timeout, text};
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
      return {HttpError::Kind::connect,
              text + (request.unix_socket.empty()
                          ? "; is the server running there?"
                          : "; is the server running, and may this user open its socket?")};
    default:
      return {HttpError::Kind::broken, text};
  }
}

void take_header(std::string_view line, HttpResponse* response) {
  if (line.rfind("HTTP/", 0) == 0) {  // of a 100 before the answer proper, or of the answer
    response->headers.clear();
    return;
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const size_t first = line.find_first_not_of(" \t", colon + 1);
  const size_t last = line.find_last_not_of(" \t\r\n");
  response->headers[name] = first == std::string_view::npos || last < first
                                ? ""
                                : std::string(line.substr(first, last - first + 1));
}

void set_connection_options(CURL* easy, const HttpRequest& request) {
  curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#endif
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROXY, "");  // a proxy of the surroundings is not for us
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(request.connect_timeout.count()));
  if (!request.unix_socket.empty())
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, request.unix_socket.c_str());
}

}  // namespace http

namespace {

/// One request in progress. libcurl's callbacks get a pointer to it.
struct Exchange {
  uint64_t number = 0;
  HttpRequest request;
  Completion<HttpResponse> done;
  HttpResponse response;
  CURL* easy = nullptr;
  curl_slist* header_list = nullptr;
  size_t sent = 0;  // of request.body
  bool too_long = false;
  char error[CURL_ERROR_SIZE] = {0};

  Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    curl_easy_cleanup(easy);
    curl_slist_free_all(header_list);
  }

  void prepare();
  bool has_body() const { return request.read_body || !request.body.empty(); }
};

size_t on_header(char* data, size_t, size_t size, void* exchange) {
  http::take_header({data, size}, &static_cast<Exchange*>(exchange)->response);
  return size;
}

size_t on_write(char* data, size_t, size_t size, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  long status = 0;
  curl_easy_getinfo(exchange.easy, CURLINFO_RESPONSE_CODE, &status);
  if (exchange.request.on_body && status / 100 == 2) {
    if (exchange.request.on_body({data, size})) return size;
    exchange.response.truncated = true;
    return 0;  // fewer than it gave: libcurl ends the exchange
  }
  if (exchange.response.body.size() + size > exchange.request.max_body_bytes) {
    exchange.too_long = true;
    return 0;  // fewer than it gave: libcurl ends the exchange
  }
  exchange.response.body.append(data, size);
  return size;
}

size_t on_read(char* buffer, size_t, size_t size, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  if (exchange.request.read_body) return exchange.request.read_body(buffer, size);
  const size_t n = exchange.request.body.copy(buffer, size, exchange.sent);
  exchange.sent += n;
  return n;
}

void Exchange::prepare() {
  easy = curl_easy_init();
  if (!easy) throw Error("start a request: libcurl has no memory");
  http::set_connection_options(easy, request);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, this);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, this);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout.count()));
  if (request.method == "HEAD") curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  if (has_body() || request.method == "POST" || request.method == "PUT") {
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(easy, CURLOPT_READDATA, this);
    if (!request.read_body)
      curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE,
                       static_cast<curl_off_t>(request.body.size()));
  }
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  // A round trip spent on asking whether the body may come serves nobody here.
  header_list = curl_slist_append(header_list, "Expect:");
  for (const auto& [name, value] : request.headers)
    header_list =
        curl_slist_append(header_list, std::string(name).append(": ").append(value).c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, header_list);
}

}  // namespace

/// The client's thread and what it works on. Members below the mutex are shared, the rest is the
/// thread's.
class HttpClient::Loop {
 public:
  Loop() {
    http::ensure_curl();
    multi_ = curl_multi_init();
    if (!multi_) throw Error("start the HTTP client: libcurl has no memory");
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    curl_multi_wakeup(multi_);
    thread_.join();
    curl_multi_cleanup(multi_);
  }

  HttpCall send(HttpRequest request, Completion<HttpResponse> done) {
    auto exchange = std::make_unique<Exchange>();
    exchange->request = std::move(request);
    exchange->done = std::move(done);
    exchange->prepare();
    HttpCall call;
    {
      std::lock_guard lock(mutex_);
      call.number = exchange->number = next_number_++;
      arrived_.push_back(std::move(exchange));
    }
    curl_multi_wakeup(multi_);
    return call;
  }

  void cancel(HttpCall call) {
    {
      std::lock_guard lock(mutex_);
      cancelled_.push_back(call.number);
    }
    curl_multi_wakeup(multi_);
  }

 private:
  void run() {
    while (take_orders()) {
      int running = 0;
      curl_multi_perform(multi_, &running);
      take_results();
      curl_multi_poll(multi_, nullptr, 0, kPollMs, nullptr);
    }
    while (!exchanges_.empty()) finish_cancelled(exchanges_.begin()->first);
  }

  bool take_orders() {
    std::vector<std::unique_ptr<Exchange>> arrived;
    std::vector<uint64_t> cancelled;
    bool closing;
    {
      std::lock_guard lock(mutex_);
      arrived.swap(arrived_);
      cancelled.swap(cancelled_);
      closing = closing_;
    }
    for (auto& exchange : arrived) {
      curl_multi_add_handle(multi_, exchange->easy);
      exchanges_.emplace(exchange->number, std::move(exchange));
    }
    for (uint64_t number : cancelled)
      if (exchanges_.count(number)) finish_cancelled(number);
    return !closing;
  }

  void take_results() {
    int left;
    while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      char* context = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &context);
      const CURLcode code = message->data.result;
      finish(remove(reinterpret_cast<Exchange*>(context)->number), code);
    }
  }

  std::unique_ptr<Exchange> remove(uint64_t number) {
    auto found = exchanges_.find(number);
    std::unique_ptr<Exchange> exchange = std::move(found->second);
    exchanges_.erase(found);
    curl_multi_remove_handle(multi_, exchange->easy);
    return exchange;
  }

  static void finish(std::unique_ptr<Exchange> exchange, CURLcode code) {
    if (exchange->too_long)
      return exchange->done(std::make_exception_ptr(
          HttpError(HttpError::Kind::broken,
                    http::name_of(exchange->request) + ": the answer is longer than " +
                        std::to_string(exchange->request.max_body_bytes) + " bytes")));
    if (code != CURLE_OK && !exchange->response.truncated)
      return exchange->done(
          std::make_exception_ptr(http::error_of(exchange->request, code, exchange->error)));
    long status = 0;
    curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
    exchange->response.status = static_cast<int>(status);
    exchange->done(std::move(exchange->response));
  }

  void finish_cancelled(uint64_t number) {
    std::unique_ptr<Exchange> exchange = remove(number);
    exchange->done(
        std::make_exception_ptr(Cancelled(http::name_of(exchange->request) + ": cancelled")));
  }

  static constexpr int kPollMs = 60'000;  // libcurl shortens it to its own next deadline

  CURLM* multi_ = nullptr;
  std::unordered_map<uint64_t, std::unique_ptr<Exchange>> exchanges_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Exchange>> arrived_;
  std::vector<uint64_t> cancelled_;
  uint64_t next_number_ = 1;
  bool closing_ = false;
  std::thread thread_;  // last: it uses the rest
};

HttpClient::HttpClient() : loop_(std::make_unique<Loop>()) {}
HttpClient::~HttpClient() = default;

HttpCall HttpClient::send(HttpRequest request, Completion<HttpResponse> done) {
  return loop_->send(std::move(request), std::move(done));
}

void HttpClient::cancel(HttpCall call) { loop_->cancel(call); }

HttpResponse HttpClient::fetch(HttpRequest request) {
  return await<HttpResponse>(
      [&](Completion<HttpResponse> done) { send(std::move(request), std::move(done)); });
}

std::string url_escape(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (unsigned char c : text) {
    if (std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out += static_cast<char>(c);
    } else {
      out += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return out;
}

}  // namespace espalier::common
