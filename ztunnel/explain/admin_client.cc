#include "ztunnel/explain/admin_client.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>

#include "base/host_port.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr std::chrono::seconds kLimit{60};
constexpr uint64_t kMostBytes = uint64_t{1} << 30;

std::string remedy(const beast::error_code& why) {
  if (why == asio::error::connection_refused) {
    return "; nothing listens there. On the node: is ztunnel running, and is PROXY_ADMIN_PORT another? From outside: kubectl -n "
           "istio-system port-forward POD 15000, and --admin localhost:15000";
  }
  if (why == beast::error::timeout) return "; whatever listens there says nothing";
  if (why.category() == http::make_error_code(http::error::bad_version).category())
    return "; what answers there is no ztunnel's admin server: --admin is to be its port, 15000 by default";
  return {};
}

std::unexpected<Error> failed(const beast::error_code& why) {
  return fail(Reason::kIo, fmt::format("{}{}", why.message(), remedy(why)));
}

// The error says why, and not yet what was asked of whom.
Result<AdminAnswer> exchange(const std::string& address, std::string_view method, std::string_view target) {
  const auto at = split_host_port(address);
  if (!at) return fail(Reason::kInvalidInput, fmt::format("\"{}\" is not HOST:PORT, such as localhost:15000", address));
  asio::io_context io;
  beast::error_code error;
  beast::tcp_stream stream(io);
  beast::flat_buffer buffer;
  http::request<http::empty_body> request(http::string_to_verb(method), std::string(target), 11);
  request.set(http::field::host, address);
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMostBytes);
  // Each step waits for the one before, all of them under one limit.
  const auto wait = [&] {
    io.restart();
    io.run();
    return !error;
  };
  const auto done = [&](const beast::error_code& why, auto&&...) { error = why; };
  asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(std::string(at->host), std::to_string(at->port), error);
  if (error) return failed(error);
  stream.expires_after(kLimit);
  stream.async_connect(found, done);
  if (!wait()) return failed(error);
  http::async_write(stream, request, done);
  if (!wait()) return failed(error);
  http::async_read(stream, buffer, parser, done);
  if (!wait()) return failed(error);
  return AdminAnswer{.status = parser.get().result_int(), .body = std::move(parser.get().body())};
}

}  // namespace

Result<AdminAnswer> ask_admin(const std::string& address, std::string_view method, std::string_view target) {
  auto answer = exchange(address, method, target);
  if (!answer) return fail(answer.error().reason, fmt::format("no answer from {}: {}", address, answer.error().text));
  return answer;
}

Result<std::string> fetch_config_dump(const std::string& address) {
  auto answer = exchange(address, "GET", "/config_dump");
  if (!answer) return fail(answer.error().reason, fmt::format("no config_dump from {}: {}", address, answer.error().text));
  if (answer->status == 200) return std::move(answer->body);
  const char* why = answer->status == 503 ? "; the proxy is starting: ask again in a moment"
                    : answer->status == 404
                        ? "; what answers there is no ztunnel's admin server, which is on port 15000 by default"
                        : "";
  return fail(Reason::kIo, fmt::format("no config_dump from {}: HTTP status {}{}", address, answer->status, why));
}

}  // namespace zt::ztunnel
