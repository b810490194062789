#pragma once
// Two ends of a tunnel over a real TCP connection on loopback, without a handshake: both get the same made-up secrets.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hbone/tunnel.h"

namespace zt::hbone::testing {

inline std::pair<UniqueFd, UniqueFd> tcp_pair() {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  REQUIRE(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
  UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  REQUIRE(server);
  for (int fd : {client.get(), server.get()}) {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  return {std::move(client), std::move(server)};
}

// One end of a finished handshake whose keys have protected `records` records each already.
inline TlsEstablished established(bool server, uint64_t records = 0) {
  std::array<uint8_t, 32> client_secret, server_secret;
  client_secret.fill(1);
  server_secret.fill(2);
  RecordState client_state, server_state;
  client_state.secret = TrafficSecret(client_secret);
  server_state.secret = TrafficSecret(server_secret);
  server_state.from_server = true;
  client_state.sequence = server_state.sequence = records;
  auto sealer = RecordSealer::make(server ? server_state : client_state);
  auto opener = RecordOpener::make(server ? client_state : server_state);
  REQUIRE(sealer);
  REQUIRE(opener);
  return {.sealer = std::move(*sealer),
          .opener = std::move(*opener),
          .suite = CipherSuite::kAes128GcmSha256,
          .group = "X25519",
          .peer = {},
          .peer_chain = {}};
}

// A stream's user that keeps bytes in memory: sends what is in `to_send`, takes at most `take_limit` bytes in all.
struct MemoryUser final : StreamHandler {
  MemoryUser() = default;
  MemoryUser(const MemoryUser&) = delete;
  ~MemoryUser() { abandon(H2Error::kCancel); }
  void abandon(H2Error how) {
    if (stream != nullptr) std::exchange(stream, nullptr)->abandon(how);
  }
  Stream* stream = nullptr;
  std::string to_send;
  bool end_after = false;
  bool reset_after = false;
  size_t chunk = SIZE_MAX;  // bytes per pull
  std::string received;
  size_t take_limit = SIZE_MAX;
  size_t largest_offer = 0;
  std::optional<Headers> response;
  bool ended = false;
  std::optional<Reason> closed;
  H2Error code{};

  void on_response(Headers headers) noexcept override { response = std::move(headers); }
  PullResult pull(std::span<const iovec> slots) noexcept override {
    size_t given = 0;
    for (const iovec& slot : slots) {
      const size_t n = std::min({slot.iov_len, to_send.size() - given, chunk - given});
      memcpy(slot.iov_base, to_send.data() + given, n);
      given += n;
    }
    to_send.erase(0, given);
    if (!to_send.empty()) return {given, PullResult::State::kMore};
    if (reset_after) return {given, PullResult::State::kReset};
    if (end_after) return {given, PullResult::State::kEnd};
    return {given, PullResult::State::kDrained};
  }
  size_t on_data(std::span<const iovec> data) noexcept override {
    size_t taken = 0;
    size_t offered = 0;
    for (const iovec& part : data) offered += part.iov_len;
    largest_offer = std::max(largest_offer, offered);
    for (const iovec& part : data) {
      const size_t n = std::min(part.iov_len, take_limit - received.size());
      received.append(static_cast<const char*>(part.iov_base), n);
      taken += n;
      if (n < part.iov_len) break;
    }
    return taken;
  }
  void on_end_stream() noexcept override { ended = true; }
  void on_closed(Reason reason, H2Error error) noexcept override {
    stream = nullptr;
    closed = reason;
    code = error;
  }
  void send(std::string bytes, bool end = false) {
    to_send += bytes;
    end_after = end;
    if (stream != nullptr) stream->readable();
  }
};

struct ServerEnd final : TunnelOwner {
  std::unique_ptr<Tunnel> tunnel;
  std::deque<std::unique_ptr<MemoryUser>> users;  // in order of requests
  std::vector<Headers> requests;
  std::function<void(MemoryUser&)> on_new;
  std::string status = "200";  // how requests are answered
  std::optional<Error> closed;

  void on_request(Stream& stream, Headers headers) noexcept override {
    requests.push_back(std::move(headers));
    if (status != "200") return stream.respond({{":status", status}}, true);
    auto& user = *users.emplace_back(std::make_unique<MemoryUser>());
    user.stream = &stream;
    stream.set_handler(&user);
    stream.respond({{":status", "200"}}, false);
    if (on_new) on_new(user);
  }
  void on_streams_changed(Tunnel&) noexcept override {}
  void on_tunnel_closed(Tunnel&, const Error& why) noexcept override {
    closed = why;
    tunnel.reset();
  }
};

struct ClientEnd final : TunnelOwner {
  std::unique_ptr<Tunnel> tunnel;
  std::optional<Error> closed;
  size_t changes = 0;
  void on_request(Stream&, Headers) noexcept override {}
  void on_streams_changed(Tunnel&) noexcept override { ++changes; }
  void on_tunnel_closed(Tunnel&, const Error& why) noexcept override {
    closed = why;
    tunnel.reset();
  }
};

inline const Headers kConnect{{":method", "CONNECT"}, {":authority", "10.0.0.1:80"}};

struct Pair {
  EventLoop loop;
  MemoryLimit memory{64 << 20};
  WorkerIo io{loop, memory};
  TunnelConfig config;
  ServerEnd server;
  ClientEnd client;

  explicit Pair(TunnelConfig settings = {}, std::pair<UniqueFd, UniqueFd> sockets = tcp_pair()) : config(settings) {
    auto& [a, b] = sockets;
    auto c = Tunnel::start(io, io.budget, Tunnel::Role::kClient, std::move(a), established(false), {}, config, client);
    auto s = Tunnel::start(io, io.budget, Tunnel::Role::kServer, std::move(b), established(true), {}, config, server);
    REQUIRE(c);
    REQUIRE(s);
    client.tunnel = std::move(*c);
    server.tunnel = std::move(*s);
  }
  bool run(const std::function<bool()>& done, std::chrono::seconds limit = std::chrono::seconds(20)) {
    return loop.run_until(done, limit);
  }
  std::unique_ptr<MemoryUser> open() {
    auto user = std::make_unique<MemoryUser>();
    auto stream = client.tunnel->open(kConnect, *user);
    REQUIRE(stream);
    user->stream = *stream;
    return user;
  }
  std::unique_ptr<MemoryUser> open_answered() {
    auto user = open();
    REQUIRE(run([&] { return user->response.has_value(); }));
    return user;
  }
};

}  // namespace zt::hbone::testing
