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

}  // namespace

Result<std::string> fetch_config_dump(const std::string& address) {
  const auto at = split_host_port(address);
  if (!at) return fail(Reason::kInvalidInput, fmt::format("\"{}\" is not HOST:PORT", address));
  asio::io_context io;
  beast::error_code error;
  beast::tcp_stream stream(io);
  beast::flat_buffer buffer;
  http::request<http::empty_body> request{http::verb::get, "/config_dump", 11};
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
  const auto failed = [&] { return fail(Reason::kIo, fmt::format("no config_dump from {}: {}", address, error.message())); };
  asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(std::string(at->host), std::to_string(at->port), error);
  if (error) return failed();
  stream.expires_after(kLimit);
  stream.async_connect(found, done);
  if (!wait()) return failed();
  http::async_write(stream, request, done);
  if (!wait()) return failed();
  http::async_read(stream, buffer, parser, done);
  if (!wait()) return failed();
  if (parser.get().result() != http::status::ok)
    return fail(Reason::kIo, fmt::format("no config_dump from {}: HTTP status {}", address, parser.get().result_int()));
  return std::move(parser.get().body());
}

}  // namespace zt::ztunnel
