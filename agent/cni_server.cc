#include "agent/cni_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cerrno>
#include <utility>

#include "base/json_writer.h"
#include "base/linux/unix_socket.h"
#include "base/log.h"
#include "base/text.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

namespace http = boost::beast::http;
namespace json = boost::json;

log::Scope log_cni("cni");

constexpr size_t kMaxIps = 64;

Result<std::string> text_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_string() || value->get_string().empty()) {
    return fail(Reason::kInvalidInput, fmt::format("{} is missing, or no text", key));
  }
  return std::string(value->get_string().data(), value->get_string().size());
}

Result<> check_name(std::string_view key, std::string_view name) {
  const auto allowed = [](char c) { return is_alnum(c) || c == '-' || c == '.'; };
  if (name.size() <= 253 && std::ranges::all_of(name, allowed)) return {};
  return fail(Reason::kInvalidInput, fmt::format("{}: '{}' is no name", key, name.substr(0, 64)));
}

}  // namespace

Result<CniRequest> parse_cni_request(std::string_view text) {
  json::parse_options options;
  options.max_depth = 16;
  boost::system::error_code error;
  const json::value root = json::parse({text.data(), text.size()}, error, {}, options);
  if (error || !root.is_object()) return fail(Reason::kInvalidInput, "the body is no JSON object");
  CniRequest request;
  ZT_ASSIGN(request.netns, text_at(root.get_object(), "Netns"));
  ZT_ASSIGN(request.pod, text_at(root.get_object(), "PodName"));
  ZT_ASSIGN(request.ns, text_at(root.get_object(), "PodNamespace"));
  ZT_TRY(check_name("PodName", request.pod));
  ZT_TRY(check_name("PodNamespace", request.ns));
  if (request.netns.front() != '/' || request.netns.find("/../") != std::string::npos || request.netns.size() > 4000) {
    return fail(Reason::kInvalidInput, fmt::format("Netns: '{}' is no absolute path", request.netns.substr(0, 64)));
  }
  const json::value* ips = root.get_object().if_contains("IPs");
  if (ips == nullptr || ips->is_null()) return request;
  if (!ips->is_array() || ips->get_array().size() > kMaxIps) return fail(Reason::kInvalidInput, "IPs is no list, or a long one");
  for (const auto& entry : ips->get_array()) {
    const json::value* address = entry.is_object() ? entry.get_object().if_contains("Address") : nullptr;
    if (address == nullptr || !address->is_object()) return fail(Reason::kInvalidInput, "IPs: an entry without Address");
    ZT_ASSIGN(std::string ip, text_at(address->get_object(), "IP"));
    request.ips.push_back(std::move(ip));
  }
  return request;
}

// One request, read, asked and answered.
class CniServer::Connection final : private Watcher, public std::enable_shared_from_this<Connection> {
 public:
  Connection(CniServer& server, UniqueFd socket) : server_(server), socket_(std::move(socket)), limit_(server.loop_) {
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
      if (asked_) continue;
      text_.append(piece.data(), static_cast<size_t>(n));
      read();
    }
  }
  void read() {
    if (text_.size() > kMaxRequest) return answer(400, "the request is too long");
    boost::system::error_code error;
    const size_t taken = parser_.put(boost::asio::buffer(text_), error);
    text_.erase(0, taken);
    if (error && error != http::error::need_more) return answer(400, "no HTTP: " + error.message());
    if (!parser_.is_done()) return;
    const auto& request = parser_.get();
    if (request.method() != http::verb::post || request.target() != "/cmdadd") return answer(400, "only POST /cmdadd is known");
    auto asked = parse_cni_request(request.body());
    if (!asked) return answer(400, asked.error().text);
    asked_ = true;
    limit_.start_after(kTotalLimit, [this] { answer(500, "it took too long"); });
    const std::string name = asked->ns + "/" + asked->pod;
    server_.handler_(std::move(*asked), [weak = weak_from_this(), name](const Result<>& result) {
      if (const auto self = weak.lock()) self->answered(name, result);
    });
  }
  void answered(const std::string& name, const Result<>& result) {
    if (result) {
      ZT_LOG(log_cni, kDebug, "the plugin may go on", Field::string("name", name));
      return answer(200, "");
    }
    ZT_LOG(log_cni, kError, "the pod may not start", Field::string("name", name), Field::string("error", result.error().text));
    answer(500, result.error().text);
  }
  void answer(unsigned status, const std::string& text) {
    asked_ = true;
    const std::string_view phrase = status == 200 ? "OK" : status == 400 ? "Bad Request" : "Internal Server Error";
    const std::string out =
        fmt::format("HTTP/1.1 {} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", status,
                    phrase, text.size(), text);
    // It fits into the socket's buffer; who does not read it has gone.
    (void)::send(socket_.get(), out.data(), out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(socket_.get(), SHUT_WR);
    limit_.start_after(std::chrono::seconds(1), [this] { server_.forget(*this); });
  }

  CniServer& server_;
  UniqueFd socket_;
  Timer limit_;
  http::request_parser<http::string_body> parser_;
  std::string text_;
  bool asked_ = false;
};

CniServer::CniServer(EventLoop& loop, std::string path, Handler handler)
    : loop_(loop), path_(std::move(path)), handler_(std::move(handler)) {}

CniServer::~CniServer() {
  if (listener_) loop_.unwatch(listener_.get(), *this);
}

Result<> CniServer::start() {
  ZT_ASSIGN(listener_, listen_unix(path_, SOCK_STREAM, "CNI socket"));
  ZT_LOG(log_cni, kInfo, "listening for the CNI plugin", Field::string("path", path_));
  return loop_.watch(listener_.get(), *this);
}

void CniServer::on_ready(uint32_t) noexcept {
  while (true) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!socket) return;
    if (connections_.size() >= kMaxConnections) {
      ZT_LOG(log_cni, kError, "too many calls of the CNI plugin at a time, refusing one", Field::count("limit", kMaxConnections));
      continue;
    }
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    if (auto started = connection->start(); started) connections_.push_back(std::move(connection));
  }
}

void CniServer::forget(Connection& connection) {
  connections_.remove_if([&](const auto& other) { return other.get() == &connection; });
}

}  // namespace zt::agent
