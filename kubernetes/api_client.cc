#include "kubernetes/api_client.h"

#include <fmt/format.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <thread>
#include <utility>
#include <variant>

#include "base/file.h"
#include "base/text.h"
#include "base/ticket.h"
#include "mesh/reason.h"

namespace zt::kubernetes {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr uint32_t kMaxHeader = 64 * 1024;
constexpr size_t kPiece = 64 * 1024;
constexpr long kMaxRetryAfter = 3600;

// What goes from the network's thread to the loop's.
using News = std::variant<ApiHead, std::string, Result<>>;

}  // namespace

struct ApiClient::Network {
  explicit Network(ClusterConfig where) : config(std::move(where)) {}
  const ClusterConfig config;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  std::thread thread;
};

namespace {

// A call on the network's thread.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(asio::io_context& io, const ClusterConfig& config, ApiRequest request, std::function<void(News)> tell)
      : config_(config), request_(std::move(request)), tell_(std::move(tell)), resolver_(io), taken_(io) {}

  static asio::awaitable<void> run(std::shared_ptr<Exchange> self) {
    Result<> ended;
    try {
      ended = co_await self->exchange();
    } catch (const std::exception& error) {
      ended = self->failed("go on", error.what());
    }
    if (!self->over_) self->tell_(std::move(ended));
  }
  void take_more() { taken_.cancel(); }
  void end() {
    over_ = true;
    resolver_.cancel();
    taken_.cancel();
    if (stream_) beast::get_lowest_layer(*stream_).close();
  }

 private:
  std::unexpected<Error> failed(std::string_view doing, std::string_view why) {
    return fail(Reason::kIo, fmt::format("Kubernetes API at {}, {} {}: cannot {}: {}", config_.url(), request_.method,
                                         request_.target, doing, why));
  }
  std::unexpected<Error> failed(std::string_view doing, const error_code& error) {
    if (error == beast::error::timeout) {
      return failed(doing, fmt::format("nothing came for {} ms", request_.idle_limit.count()));
    }
    if (const long verified = stream_ ? ::SSL_get_verify_result(stream_->native_handle()) : X509_V_OK; verified != X509_V_OK) {
      return failed(doing, fmt::format("{} (roots: {})", ::X509_verify_cert_error_string(verified), config_.ca_file));
    }
    return failed(doing, error.message());
  }
  void arm() { beast::get_lowest_layer(*stream_).expires_after(request_.idle_limit); }

  // Until the loop has taken what it was told. Nothing else of this thread runs between the two lines.
  asio::awaitable<void> tell(News news) {
    if (over_) co_return;  // nobody hears it, and nobody would ask for more
    taken_.expires_at(asio::steady_timer::time_point::max());
    tell_(std::move(news));
    co_await taken_.async_wait(kAwait);
  }

  Result<> prepare() {
    ZT_ASSIGN(const std::string roots, read_file(config_.ca_file, kMaxCaBytes, "the cluster's CA"));
    ZT_ASSIGN(const std::string token, read_file(config_.token_file, kMaxTokenBytes, "the service account's token"));
    const auto bare = trim(std::string_view(token).substr(0, token.find_last_not_of(" \t\r\n") + 1));
    const auto printable = [](char c) { return c > ' ' && c < 127; };
    if (bare.empty() || !std::ranges::all_of(bare, printable)) {
      return fail(Reason::kInvalidInput, fmt::format("the service account's token {} is empty, or no token", config_.token_file));
    }
    token_ = bare;
    error_code error;
    ::SSL_CTX_set_min_proto_version(tls_.native_handle(), TLS1_2_VERSION);
    tls_.add_certificate_authority(asio::buffer(roots), error);
    if (error) return fail(Reason::kInvalidInput, fmt::format("the cluster's CA {}: {}", config_.ca_file, error.message()));
    tls_.set_verify_mode(asio::ssl::verify_peer);
    return {};
  }

  asio::awaitable<Result<>> exchange() {
    if (auto prepared = prepare(); !prepared) co_return prepared;
    const auto [unresolved, addresses] = co_await resolver_.async_resolve(config_.host, std::to_string(config_.port), kAwait);
    if (over_) co_return Result<>{};
    if (unresolved) co_return failed("find its address", unresolved);
    stream_.emplace(resolver_.get_executor(), tls_);
    stream_->set_verify_callback(asio::ssl::host_name_verification(config_.host));
    error_code no_address;
    if (asio::ip::make_address(config_.host, no_address); no_address) {
      ::SSL_set_tlsext_host_name(stream_->native_handle(), config_.host.c_str());
    }
    arm();
    if (const auto [error, at] = co_await beast::get_lowest_layer(*stream_).async_connect(addresses, kAwait); error) {
      co_return failed("connect", error);
    }
    arm();
    if (const auto [error] = co_await stream_->async_handshake(asio::ssl::stream_base::client, kAwait); error) {
      co_return failed("make a TLS connection", error);
    }
    http::request<http::string_body> request;
    request.method_string(request_.method);
    request.target(request_.target);
    request.version(11);
    request.set(http::field::host, config_.url().substr(std::string_view("https://").size()));
    request.set(http::field::user_agent, "ztunnel-agent/" ZT_VERSION);
    request.set(http::field::accept, "application/json");
    request.set(http::field::authorization, "Bearer " + token_);
    request.set(http::field::connection, "close");
    if (!request_.content_type.empty()) {
      request.set(http::field::content_type, request_.content_type);
      request.body() = request_.body;
    }
    request.prepare_payload();
    arm();
    if (const auto [error, bytes] = co_await http::async_write(*stream_, request, kAwait); error) co_return failed("send", error);
    co_return co_await receive();
  }

  asio::awaitable<Result<>> receive() {
    beast::flat_buffer buffer(kMaxHeader + kPiece);
    http::response_parser<http::buffer_body> parser;
    parser.header_limit(kMaxHeader);
    parser.body_limit(boost::none);  // the reader of the body has its own
    arm();
    if (const auto [error, bytes] = co_await http::async_read_header(*stream_, buffer, parser, kAwait); error) {
      co_return failed("read the answer", error);
    }
    ApiHead head{.status = parser.get().result_int()};
    const auto field = parser.get()[http::field::retry_after];
    if (const auto seconds = whole_number<long>({field.data(), field.size()}); seconds && *seconds >= 0) {
      head.retry_after = std::chrono::seconds(std::min(*seconds, kMaxRetryAfter));
    }
    co_await tell(head);
    std::string piece;
    while (!over_ && !parser.is_done()) {
      piece.resize(kPiece);
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      parser.get().body().more = true;
      arm();
      const auto [error, bytes] = co_await http::async_read_some(*stream_, buffer, parser, kAwait);
      piece.resize(piece.size() - parser.get().body().size);
      if (!piece.empty()) co_await tell(std::move(piece));
      piece.clear();
      if (error && error != http::error::need_buffer) co_return failed("read the answer to its end", error);
    }
    co_return Result<>{};
  }

  const ClusterConfig config_;
  const ApiRequest request_;
  const std::function<void(News)> tell_;
  std::string token_;
  asio::ssl::context tls_{asio::ssl::context::tls_client};
  asio::ip::tcp::resolver resolver_;
  asio::steady_timer taken_;
  std::optional<beast::ssl_stream<beast::tcp_stream>> stream_;
  bool over_ = false;
};

// The loop's end of an exchange.
class Call final : public ApiCall {
 public:
  Call(EventLoop& loop, asio::io_context& io, ApiHandlers handlers) : io_(io), handlers_(std::move(handlers)), ticket_(loop) {}
  ~Call() override {
    asio::post(io_, [exchange = std::move(exchange_)] { exchange->end(); });
  }
  void start(const ClusterConfig& config, ApiRequest request) {
    exchange_ = std::make_shared<Exchange>(io_, config, std::move(request),
                                           ticket_.on_answer([this](News news) { on_news(std::move(news)); }));
    asio::post(io_, [&io = io_, exchange = exchange_] { asio::co_spawn(io, Exchange::run(exchange), asio::detached); });
  }

 private:
  // A handler may destroy us.
  void on_news(News news) {
    if (const auto* end = std::get_if<Result<>>(&news)) {
      const auto handler = handlers_.on_end;
      return handler(*end);
    }
    auto more = [&io = io_, exchange = exchange_] { asio::post(io, [exchange] { exchange->take_more(); }); };
    if (const auto* head = std::get_if<ApiHead>(&news)) {
      const auto handler = handlers_.on_head;
      handler(*head);
    } else {
      const auto handler = handlers_.on_data;
      handler(std::get<std::string>(news));
    }
    more();
  }

  asio::io_context& io_;
  ApiHandlers handlers_;
  std::shared_ptr<Exchange> exchange_;
  Ticket ticket_;
};

}  // namespace

ApiClient::ApiClient(EventLoop& loop, ClusterConfig config)
    : loop_(loop), network_(std::make_unique<Network>(std::move(config))) {
  network_->thread = std::thread([network = network_.get()] { network->io.run(); });
  ::pthread_setname_np(network_->thread.native_handle(), "zt-kube");
}

ApiClient::~ApiClient() {
  network_->io.stop();
  network_->thread.join();
}

std::unique_ptr<ApiCall> ApiClient::start(ApiRequest request, ApiHandlers handlers) {
  auto call = std::make_unique<Call>(loop_, network_->io, std::move(handlers));
  call->start(network_->config, std::move(request));
  return call;
}

}  // namespace zt::kubernetes
