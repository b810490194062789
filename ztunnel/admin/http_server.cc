#include "ztunnel/admin/http_server.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <ranges>
#include <thread>
#include <unordered_set>

#include "base/log.h"
#include "mesh/reason.h"
#include "ztunnel/admin/http_session.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

log::Scope scope("http");

constexpr auto kAcceptRetryDelay = std::chrono::milliseconds(100);  // out of descriptors

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
class HttpServer::Core final : public HttpSessionOwner, public std::enable_shared_from_this<Core> {
 public:
  Core(HttpLimits limits, bool shares_ports) : limits_(limits), shares_ports_(shares_ports), work_(context_.get_executor()) {}
  [[nodiscard]] std::chrono::milliseconds close_grace() const { return limits_.close_grace; }

  struct Listener {
    Listener(asio::io_context& context, std::shared_ptr<const HttpService> serves)
        : acceptor(context), retry(context), service(std::move(serves)) {}
    tcp::acceptor acceptor;
    asio::steady_timer retry;
    std::shared_ptr<const HttpService> service;
    std::string address;
  };

  void start() {
    thread_ = std::thread([this] { run(); });
  }
  void stop() {
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Result<SocketAddress> listen_on(const SocketAddress& address, const std::shared_ptr<const HttpService>& service);
  void after(std::chrono::milliseconds time, std::move_only_function<void()> fn);
  void drain();
  bool wait_drained(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return drained_changed_.wait_for(lock, limit, [this] { return drained_; });
  }

  [[nodiscard]] const HttpLimits& limits() const override { return limits_; }
  [[nodiscard]] bool draining() const override { return draining_; }
  uint64_t next_rest() override { return ++rests_; }
  void remove(const std::shared_ptr<HttpSession>& session) override;
  void post(std::move_only_function<void()> fn) override { asio::post(context_, std::move(fn)); }

 private:
  void run();
  void accept(const std::shared_ptr<Listener>& listener);
  bool make_room(const HttpService& service, const asio::ip::address& source);
  void check_drained();

  const HttpLimits limits_;
  const bool shares_ports_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::unordered_set<std::shared_ptr<HttpSession>> sessions_;
  bool draining_ = false;
  uint64_t rests_ = 0;  // how often a session began to wait for a request

  std::mutex mutex_;
  std::condition_variable drained_changed_;
  bool drained_ = false;  // guarded by mutex_
  std::thread thread_;
};

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

Result<SocketAddress> HttpServer::Core::listen_on(const SocketAddress& address,
                                                  const std::shared_ptr<const HttpService>& service) {
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
  const int on = 1;
  if (!error && shares_ports_ && ::setsockopt(acceptor.native_handle(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
    error = error_code(errno, boost::system::system_category());
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
      const auto session =
          std::make_shared<HttpSession>(shared_from_this(), std::move(socket), peer.address(), listener->service);
      sessions_.insert(session);
      session->read();
    }
    accept(listener);
  });
}

// May one more connection from `source` stay? Ends another if that takes it: the one that has rested longest of the source itself
// if it has its share, else of the source that has most, so that many who hold much cannot keep out one who holds nothing.
bool HttpServer::Core::make_room(const HttpService& service, const asio::ip::address& source) {
  struct Share {
    size_t count = 0;
    std::shared_ptr<HttpSession> oldest, resting;
  };
  std::map<asio::ip::address, Share> shares;
  const auto keep_older = [](std::shared_ptr<HttpSession>& oldest, const std::shared_ptr<HttpSession>& session) {
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
  std::shared_ptr<HttpSession> leaves;
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

void HttpServer::Core::remove(const std::shared_ptr<HttpSession>& session) {
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
    const std::vector<std::shared_ptr<HttpSession>> sessions(sessions_.begin(), sessions_.end());
    for (const auto& session : sessions) session->drain();
    check_drained();
  });
}

void HttpServer::Core::after(std::chrono::milliseconds time, std::move_only_function<void()> fn) {
  const auto timer = std::make_shared<asio::steady_timer>(context_, time);
  timer->async_wait([timer, fn = std::move(fn)](error_code cancelled) mutable {
    if (!cancelled) fn();
  });
}

void HttpServer::Core::check_drained() {
  if (!draining_ || !sessions_.empty()) return;
  const std::lock_guard lock(mutex_);
  drained_ = true;
  drained_changed_.notify_all();
}

// ---- HttpServer

HttpServer::HttpServer(HttpLimits limits, bool shares_ports) : core_(std::make_shared<Core>(limits, shares_ports)) {
  core_->start();
}
HttpServer::~HttpServer() {
  core_->drain();
  core_->wait_drained(core_->close_grace());
  core_->stop();
}

Result<std::vector<SocketAddress>> HttpServer::listen(std::string component, const ListenAddress& address, bool ipv6,
                                                      HttpHandler handler) {
  const auto service = std::make_shared<const HttpService>(HttpService{std::move(component), std::move(handler)});
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

void HttpServer::after(std::chrono::milliseconds time, std::move_only_function<void()> fn) { core_->after(time, std::move(fn)); }

void HttpServer::drain() { core_->drain(); }
bool HttpServer::wait_drained(std::chrono::milliseconds limit) { return core_->wait_drained(limit); }

}  // namespace zt::ztunnel
