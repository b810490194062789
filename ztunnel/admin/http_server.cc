#include "ztunnel/admin/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <ranges>
#include <thread>
#include <unordered_set>

#include "base/log.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

log::Scope scope("http");

// Answers up to this size have a Content-Length; larger ones go out in chunks.
constexpr size_t kWholeAnswerBytes = 1u << 20;
constexpr size_t kLingerBytes = 4096;
constexpr auto kAcceptRetryDelay = std::chrono::milliseconds(100);  // out of descriptors

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text, length};
}

tcp::endpoint endpoint_of(const SocketAddress& address) {
  if (address.ip.is_v4()) {
    asio::ip::address_v4::bytes_type bytes;
    std::ranges::copy(address.ip.bytes(), bytes.begin());
    return {asio::ip::address_v4(bytes), address.port};
  }
  asio::ip::address_v6::bytes_type bytes;
  std::ranges::copy(address.ip.bytes(), bytes.begin());
  return {asio::ip::address_v6(bytes), address.port};
}

}  // namespace

bool loopback_has_ipv6() {
  std::ifstream file("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
  std::string value;
  // A kernel without IPv6 has no such file; the bind would say so. What cannot be read is taken for yes, as
  // the peer does.
  return !(file >> value) || value != "1";
}

// Everything that lives on the server's thread. Sessions are owned here; answers reach them by weak pointers,
// so an answer that comes late, or after the server has gone, finds nobody and does no harm.
class HttpServer::Core : public std::enable_shared_from_this<Core> {
 public:
  explicit Core(HttpLimits limits) : limits_(limits), work_(context_.get_executor()) {}
  [[nodiscard]] std::chrono::milliseconds close_grace() const { return limits_.close_grace; }

  class Session;
  // What one call of listen() serves, on one address or on one of each family.
  struct Service {
    std::string component;
    HttpHandler handler;
  };
  struct Listener {
    Listener(asio::io_context& context, std::shared_ptr<const Service> serves)
        : acceptor(context), retry(context), service(std::move(serves)) {}
    tcp::acceptor acceptor;
    asio::steady_timer retry;
    std::shared_ptr<const Service> service;
    std::string address;
  };

  void start() {
    thread_ = std::thread([this] { run(); });
  }
  void stop() {
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Result<SocketAddress> listen_on(const SocketAddress& address, const std::shared_ptr<const Service>& service);
  void drain();
  bool wait_drained(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return drained_changed_.wait_for(lock, limit, [this] { return drained_; });
  }
  void post(std::move_only_function<void()> fn) { asio::post(context_, std::move(fn)); }

 private:
  friend class Session;
  void run();
  void accept(const std::shared_ptr<Listener>& listener);
  bool make_room(const Service& service, const asio::ip::address& source);
  void remove(const std::shared_ptr<Session>& session);
  void check_drained();

  const HttpLimits limits_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::unordered_set<std::shared_ptr<Session>> sessions_;
  bool draining_ = false;
  uint64_t rests_ = 0;  // how often a session began to wait for a request

  std::mutex mutex_;
  std::condition_variable drained_changed_;
  bool drained_ = false;  // guarded by mutex_
  std::thread thread_;
};

// One client's connection: reads a request, waits for its answer, writes it, and again.
class HttpServer::Core::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Core& core, tcp::socket socket, asio::ip::address source, std::shared_ptr<const Service> service)
      : core_(core), stream_(std::move(socket)), source_(std::move(source)), service_(std::move(service)) {}

  [[nodiscard]] const Service& service() const { return *service_; }
  [[nodiscard]] const asio::ip::address& source() const { return source_; }
  [[nodiscard]] uint64_t rest() const { return rest_; }
  [[nodiscard]] bool being_served() const { return being_served_; }  // has a whole request

  void read();
  void answer(uint64_t request, HttpResponse response);
  // No further request: closes now if there is none under way.
  void drain() {
    if (!busy_) close();
  }
  void close() {
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.socket().close(ignored);
    core_.remove(shared_from_this());
  }

 private:
  using Fields = http::response<http::empty_body>;

  void read_body();
  void dispatch();
  void refuse(const error_code& error);
  void write_whole(std::string body);
  void write_pieces();
  void write_piece();
  void finish();
  void linger();
  void linger_read();
  // Runs `next` if the operation went well, else the connection is over.
  template <class Next>
  auto then(Next next) {
    return [self = shared_from_this(), next](error_code error, size_t) {
      if (error) return self->close();
      next(*self);
    };
  }

  Core& core_;
  beast::tcp_stream stream_;
  const asio::ip::address source_;
  const std::shared_ptr<const Service> service_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  bool busy_ = false;  // between a request's arrival and the end of its answer
  bool being_served_ = false;
  uint64_t rest_ = 0;      // of rests_, the last one
  uint64_t requests_ = 0;  // number of the current one: an answer counts for its own request only
  bool head_ = false;
  bool keep_alive_ = false;
  bool refused_ = false;  // the rest of the request has not been read
  unsigned version_ = 11;
  HttpResponse response_;
  std::optional<http::response<http::string_body>> whole_;
  std::optional<Fields> fields_;
  std::optional<http::response_serializer<http::empty_body>> serializer_;
  std::string piece_;
};

// ---- Session

void HttpServer::Core::Session::read() {
  if (core_.draining_) return close();
  being_served_ = false;
  rest_ = ++core_.rests_;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(core_.limits_.header_bytes));
  parser_->body_limit(core_.limits_.body_bytes);
  stream_.expires_after(core_.limits_.header_timeout);
  http::async_read_header(stream_, buffer_, *parser_, [self = shared_from_this()](error_code error, size_t) {
    if (error) return self->refuse(error);
    self->busy_ = true;
    self->read_body();
  });
}

void HttpServer::Core::Session::read_body() {
  stream_.expires_after(core_.limits_.body_timeout);
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code error, size_t) {
    if (error) return self->refuse(error);
    self->dispatch();
  });
}

// What can still be said to a client whose request is malformed is said; then the connection ends.
void HttpServer::Core::Session::refuse(const error_code& error) {
  int status = 0;
  if (error == http::error::header_limit) {
    status = 431;
  } else if (error == http::error::body_limit) {
    status = 413;
  } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    status = 400;
  }
  if (status == 0) return close();
  keep_alive_ = false;
  busy_ = true;
  refused_ = true;
  answer(requests_, HttpResponse::empty(status));
}

void HttpServer::Core::Session::dispatch() {
  being_served_ = true;
  const auto& message = parser_->get();
  keep_alive_ = message.keep_alive();
  version_ = message.version();
  head_ = message.method() == http::verb::head;
  HttpRequest request;
  request.method = message.method_string();
  const std::string_view target = message.target();
  const auto question = std::min(target.find('?'), target.size());
  request.path = target.substr(0, question);
  request.query = target.substr(std::min(question + 1, target.size()));
  request.accept = message[http::field::accept];
  request.accept_encoding = message[http::field::accept_encoding];
  request.body = std::move(parser_->get().body());

  // Answers, unless somebody has; when nobody can any more, the client is told.
  struct Pending {
    std::weak_ptr<Core> core;
    std::weak_ptr<Session> session;
    uint64_t number = 0;
    std::atomic<bool> answered{false};
    void answer(HttpResponse response) {
      if (answered.exchange(true)) return;
      const auto target_core = core.lock();
      if (target_core == nullptr) return;
      target_core->post([session = session, number = number, response = std::move(response)]() mutable {
        if (const auto alive = session.lock()) alive->answer(number, std::move(response));
      });
    }
    ~Pending() { answer(HttpResponse::text(500, "no answer\n")); }
  };
  auto pending = std::make_shared<Pending>();
  pending->core = core_.weak_from_this();
  pending->session = weak_from_this();
  pending->number = ++requests_;
  stream_.expires_never();
  try {
    service_->handler(request, [pending](HttpResponse response) { pending->answer(std::move(response)); });
  } catch (const std::exception& error) {
    pending->answer(HttpResponse::text(500, fmt::format("{}\n", error.what())));
  }
}

void HttpServer::Core::Session::answer(uint64_t request, HttpResponse response) {
  if (request != requests_ || !busy_) return;
  response_ = std::move(response);
  if (core_.draining_) keep_alive_ = false;
  if (!response_.more) return write_whole(std::move(response_.body));
  // Small answers, and those to clients that know no chunks, are put together first.
  std::string start;
  bool more = true;
  while (more && (start.size() < kWholeAnswerBytes || version_ < 11)) more = response_.more(start);
  if (!more) return write_whole(std::move(start));
  piece_ = std::move(start);
  write_pieces();
}

namespace {

template <class Message>
void set_headers(Message& message, const HttpResponse& response, bool keep_alive) {
  message.keep_alive(keep_alive);
  if (!response.content_type.empty()) message.set("content-type", response.content_type);
  for (const auto& [name, value] : response.headers) message.set(name, value);
  message.set("date", http_date());
}

}  // namespace

void HttpServer::Core::Session::write_whole(std::string body) {
  whole_.emplace(static_cast<http::status>(response_.status), version_);
  set_headers(*whole_, response_, keep_alive_);
  whole_->content_length(body.size());
  if (!head_) whole_->body() = std::move(body);
  stream_.expires_after(core_.limits_.write_timeout);
  http::async_write(stream_, *whole_, then([](Session& session) {
                      session.whole_.reset();
                      session.finish();
                    }));
}

void HttpServer::Core::Session::write_pieces() {
  fields_.emplace(static_cast<http::status>(response_.status), version_);
  set_headers(*fields_, response_, keep_alive_);
  fields_->chunked(true);
  serializer_.emplace(*fields_);
  stream_.expires_after(core_.limits_.write_timeout);
  http::async_write_header(stream_, *serializer_, then([](Session& session) {
                             if (session.head_) return session.finish();
                             session.write_piece();
                           }));
}

void HttpServer::Core::Session::write_piece() {
  stream_.expires_after(core_.limits_.write_timeout);
  asio::async_write(stream_, http::make_chunk(asio::buffer(piece_)), then([](Session& session) {
                      session.piece_.clear();
                      while (session.piece_.empty()) {
                        if (session.response_.more(session.piece_)) continue;
                        if (!session.piece_.empty()) break;
                        asio::async_write(session.stream_, http::make_chunk_last(),
                                          session.then([](Session& self) { self.finish(); }));
                        return;
                      }
                      session.write_piece();
                    }));
}

void HttpServer::Core::Session::finish() {
  busy_ = false;
  response_ = {};
  serializer_.reset();
  fields_.reset();
  if (refused_) return linger();
  if (!keep_alive_) return close();
  read();
}

// Closing with unread bytes would reset the connection, and the client might lose the answer: read on until
// it closes.
void HttpServer::Core::Session::linger() {
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  stream_.expires_after(core_.limits_.header_timeout);
  buffer_.clear();
  linger_read();
}

void HttpServer::Core::Session::linger_read() {
  stream_.async_read_some(buffer_.prepare(kLingerBytes), then([](Session& session) { session.linger_read(); }));
}

// ---- Core

void HttpServer::Core::run() {
  pthread_setname_np(pthread_self(), "http");
  for (;;) {
    try {
      context_.run();
      return;
    } catch (const std::exception& error) {
      // A handler's bug ends its request, not the server.
      ZT_LOG(scope, kError, "unexpected exception in a request", Field::string("error", error.what()));
    }
  }
}

Result<SocketAddress> HttpServer::Core::listen_on(const SocketAddress& address, const std::shared_ptr<const Service>& service) {
  const auto listener = std::make_shared<Listener>(context_, service);
  const auto endpoint = endpoint_of(address);
  error_code error;
  auto& acceptor = listener->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  // [::] takes IPv4 too, whatever the system's default is; ::1 must leave 127.0.0.1's port alone.
  if (!error && endpoint.protocol() == tcp::v6()) {
    acceptor.set_option(asio::ip::v6_only(!address.ip.is_unspecified()), error);
  }
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return fail(Reason::kIo, bind_failure(address, error.value()));
  }
  SocketAddress bound = address;
  bound.port = acceptor.local_endpoint(error).port();
  listener->address = bound.to_string();
  ZT_LOG(scope, kInfo, "listener established", Field::bare("address", listener->address),
         Field::string("component", service->component));
  asio::post(context_, [this, listener] {
    listeners_.push_back(listener);
    accept(listener);
  });
  return bound;
}

void HttpServer::Core::accept(const std::shared_ptr<Listener>& listener) {
  if (draining_) return listener->acceptor.close();
  listener->acceptor.async_accept([this, listener](error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      ZT_LOG(scope, kWarn, "cannot accept", Field::string("component", listener->service->component),
             Field::string("error", error.message()));
      listener->retry.expires_after(kAcceptRetryDelay);
      listener->retry.async_wait([this, listener](error_code cancelled) {
        if (!cancelled) accept(listener);
      });
      return;
    }
    const auto peer = socket.remote_endpoint(error);
    if (!error && make_room(*listener->service, peer.address())) {
      socket.set_option(tcp::no_delay(true), error);
      const auto session = std::make_shared<Session>(*this, std::move(socket), peer.address(), listener->service);
      sessions_.insert(session);
      session->read();
    }
    accept(listener);
  });
}

// May one more connection from `source` stay? Ends another if that takes it: the one that has rested longest of the source itself
// if it has its share, else of the source that has most, so that many who hold much cannot keep out one who holds nothing.
bool HttpServer::Core::make_room(const Service& service, const asio::ip::address& source) {
  struct Share {
    size_t count = 0;
    std::shared_ptr<Session> oldest, resting;
  };
  std::map<asio::ip::address, Share> shares;
  const auto keep_older = [](std::shared_ptr<Session>& oldest, const std::shared_ptr<Session>& session) {
    if (oldest == nullptr || session->rest() < oldest->rest()) oldest = session;
  };
  size_t all = 0;
  for (const auto& session : sessions_) {
    if (&session->service() != &service) continue;
    Share& share = shares[session->source()];
    ++all;
    ++share.count;
    keep_older(share.oldest, session);
    if (!session->being_served()) keep_older(share.resting, session);
  }
  std::shared_ptr<Session> leaves;
  if (const Share& own = shares[source]; own.count >= limits_.connections_per_source) {
    leaves = own.resting;
  } else if (all < limits_.connections) {
    return true;
  } else {
    const Share& largest = std::ranges::max(shares | std::views::values, {}, &Share::count);
    leaves = largest.resting != nullptr || largest.count < 2 ? largest.resting : largest.oldest;
  }
  if (leaves == nullptr) return false;
  leaves->close();
  return true;
}

void HttpServer::Core::remove(const std::shared_ptr<Session>& session) {
  sessions_.erase(session);
  check_drained();
}

void HttpServer::Core::drain() {
  asio::post(context_, [this] {
    if (draining_) return;
    draining_ = true;
    for (const auto& listener : listeners_) {
      error_code ignored;
      listener->retry.cancel();
      listener->acceptor.close(ignored);
      ZT_LOG(scope, kInfo, "listener drained", Field::bare("address", listener->address),
             Field::string("component", listener->service->component));
    }
    listeners_.clear();
    // Idle ones take themselves out of the set.
    const std::vector<std::shared_ptr<Session>> sessions(sessions_.begin(), sessions_.end());
    for (const auto& session : sessions) session->drain();
    check_drained();
  });
}

void HttpServer::Core::check_drained() {
  if (!draining_ || !sessions_.empty()) return;
  const std::lock_guard lock(mutex_);
  drained_ = true;
  drained_changed_.notify_all();
}

// ---- HttpServer

HttpServer::HttpServer(HttpLimits limits) : core_(std::make_shared<Core>(limits)) { core_->start(); }
HttpServer::~HttpServer() {
  core_->drain();
  core_->wait_drained(core_->close_grace());
  core_->stop();
}

Result<std::vector<SocketAddress>> HttpServer::listen(std::string component, const ListenAddress& address, bool ipv6,
                                                      HttpHandler handler) {
  const auto service = std::make_shared<const Core::Service>(Core::Service{std::move(component), std::move(handler)});
  std::vector<SocketAddress> bound;
  if (const auto* literal = std::get_if<SocketAddress>(&address)) {
    ZT_ASSIGN(const auto one, core_->listen_on(*literal, service));
    bound.push_back(one);
    return bound;
  }
  const uint16_t port = std::get<LocalhostPort>(address).port;
  ZT_ASSIGN(const auto v4, core_->listen_on({*IpAddress::parse("127.0.0.1"), port}, service));
  bound.push_back(v4);
  if (ipv6 && loopback_has_ipv6()) {
    ZT_ASSIGN(const auto v6, core_->listen_on({*IpAddress::parse("::1"), v4.port}, service));
    bound.push_back(v6);
  }
  return bound;
}

void HttpServer::drain() { core_->drain(); }
bool HttpServer::wait_drained(std::chrono::milliseconds limit) { return core_->wait_drained(limit); }

}  // namespace zt::ztunnel
