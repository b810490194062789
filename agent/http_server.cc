#include "agent/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <utility>

#include "base/log.h"

namespace zt::agent {

namespace {

namespace http = boost::beast::http;

log::Scope log_http("http");

constexpr unsigned kBadRequest = 400, kServerError = 500;

}  // namespace

// One request, read, asked and answered.
class HttpServer::Connection final : private Watcher, public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer& server, UniqueFd socket) : server_(server), socket_(std::move(socket)), limit_(server.loop_) {
    parser_.body_limit(kMaxRequest);
    parser_.header_limit(kMaxRequest);
    parser_.eager(true);
  }
  ~Connection() { server_.loop_.unwatch(socket_.get(), *this); }
  Result<> start() {
    limit_.start_after(kReadLimit, [this] { server_.forget(*this); });
    return server_.loop_.watch(socket_.get(), *this);
  }

 private:
  void on_ready(uint32_t) noexcept override {
    const auto self = shared_from_this();
    std::array<char, 16 * 1024> piece;
    while (true) {
      const ssize_t n = ::recv(socket_.get(), piece.data(), piece.size(), MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return server_.forget(*this);  // has gone, whether or not it was answered
      // What comes behind a request is nobody's: a client that never stops must not keep the loop.
      if (asked_ && (ignored_ += static_cast<size_t>(n)) > kMaxRequest) return server_.forget(*this);
      if (asked_) continue;
      text_.append(piece.data(), static_cast<size_t>(n));
      read();
    }
  }
  void read() {
    if (text_.size() > kMaxRequest) return answer({kBadRequest, "the request is too long"});
    boost::system::error_code error;
    const size_t taken = parser_.put(boost::asio::buffer(text_), error);
    text_.erase(0, taken);
    if (error && error != http::error::need_more) return answer({kBadRequest, "no HTTP: " + error.message()});
    if (!parser_.is_done()) return;
    asked_ = true;
    limit_.start_after(kTotalLimit, [this] { answer({kServerError, "it took too long"}); });
    auto& request = parser_.get();
    const auto method = request.method_string(), target = request.target();
    server_.handler_(
        {.method = {method.data(), method.size()}, .target = {target.data(), target.size()}, .body = std::move(request.body())},
        [weak = weak_from_this()](const HttpAnswer& given) {
          if (const auto self = weak.lock()) self->answer(given);
        });
  }
  void answer(const HttpAnswer& given) {
    asked_ = true;
    const auto phrase = http::obsolete_reason(http::int_to_status(given.status));
    const std::string out =
        fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", given.status,
                    std::string_view(phrase.data(), phrase.size()), given.type, given.text.size(), given.text);
    // It fits into the socket's buffer; who does not read it has gone.
    (void)::send(socket_.get(), out.data(), out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(socket_.get(), SHUT_WR);
    limit_.start_after(std::chrono::seconds(1), [this] { server_.forget(*this); });
  }

  HttpServer& server_;
  UniqueFd socket_;
  Timer limit_;
  http::request_parser<http::string_body> parser_;
  std::string text_;
  bool asked_ = false;
  size_t ignored_ = 0;  // bytes behind the request
};

HttpServer::HttpServer(EventLoop& loop, std::string who, Handler handler)
    : loop_(loop), who_(std::move(who)), handler_(std::move(handler)) {}

HttpServer::~HttpServer() {
  if (listener_) loop_.unwatch(listener_.get(), *this);
}

Result<> HttpServer::start(UniqueFd listener) {
  listener_ = std::move(listener);
  return loop_.watch(listener_.get(), *this);
}

void HttpServer::on_ready(uint32_t) noexcept {
  while (true) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!socket) return;
    // The oldest gives way: one who only holds connections must not keep the others out. Said once, until there is room again.
    if (connections_.size() >= kMaxConnections) {
      if (!std::exchange(crowded_, true)) {
        ZT_LOG(log_http, kWarn, "too many requests at a time, the oldest give way", Field::string("of", who_),
               Field::count("limit", kMaxConnections));
      }
      connections_.pop_front();
    } else {
      crowded_ = false;
    }
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    if (auto started = connection->start(); started) connections_.push_back(std::move(connection));
  }
}

void HttpServer::forget(Connection& connection) {
  connections_.remove_if([&](const auto& other) { return other.get() == &connection; });
}

}  // namespace zt::agent
