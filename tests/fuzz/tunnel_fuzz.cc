// What a peer may send inside a good TLS connection: HTTP/2 bytes against a whole Tunnel, server or client by the first byte.
// Beyond crashes and leaks it checks what must hold whatever comes: no buffer stays lent, what is kept stays within the budget.
#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "hbone/connect_headers.h"
#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace {

using namespace zt;
using namespace zt::hbone;

constexpr size_t kBudget = 64 * 1024;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

RecordState state(bool from_server) {
  std::array<uint8_t, 32> secret;
  secret.fill(from_server ? 2 : 1);
  RecordState made;
  made.secret = TrafficSecret(secret);
  made.from_server = from_server;
  return made;
}

// Takes some of what comes, answers a little, and parses headers as the proxy does.
struct User final : StreamHandler {
  Stream* stream = nullptr;
  size_t budget = 1000;
  int answers = 3;
  void on_response(Headers headers) noexcept override { (void)parse_answer(headers); }
  PullResult pull(std::span<const iovec> slots) noexcept override {
    if (answers-- <= 0) return {0, PullResult::State::kEnd};
    std::memset(slots[0].iov_base, 'a', 1);
    return {1, PullResult::State::kMore};
  }
  size_t on_data(std::span<const iovec> data) noexcept override {
    size_t taken = 0;
    for (const iovec& part : data) {
      const size_t n = std::min(part.iov_len, budget);
      taken += n;
      budget -= n;
    }
    return taken;
  }
  void on_end_stream() noexcept override {}
  void on_closed(Reason, H2Error) noexcept override { stream = nullptr; }
};

struct Owner final : TunnelOwner {
  std::unique_ptr<Tunnel> tunnel;
  std::vector<std::unique_ptr<User>> users;
  void on_request(Stream& stream, Headers headers) noexcept override {
    const auto request = parse_connect(headers);
    if (!request) return stream.respond(render_answer(reason_info(request.error().reason).http_status, nullptr), true);
    auto& user = *users.emplace_back(std::make_unique<User>());
    user.stream = &stream;
    stream.set_handler(&user);
    stream.respond(render_answer(200, nullptr), false);
  }
  void on_streams_changed(Tunnel&) noexcept override {}
  void on_tunnel_closed(Tunnel&, const Error&) noexcept override { tunnel.reset(); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 64 * 1024) return 0;
  const bool server = (data[0] & 1) != 0;
  const size_t piece = 1 + data[1] * 16u;
  data += 2;
  size -= 2;

  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return 0;
  UniqueFd ours(ends[0]), peer(ends[1]);
  EventLoop loop;
  MemoryLimit memory(kBudget);
  WorkerIo io(loop, memory);
  static const TunnelConfig config;
  Owner owner;
  {
    auto sealer = RecordSealer::make(state(server));
    auto opener = RecordOpener::make(state(!server));
    auto peer_sealer = RecordSealer::make(state(!server));
    auto started = Tunnel::start(
        io, io.budget, server ? Tunnel::Role::kServer : Tunnel::Role::kClient, std::move(ours),
        {.sealer = std::move(*sealer), .opener = std::move(*opener), .suite = {}, .group = {}, .peer = {}, .peer_chain = {}}, {},
        config, owner);
    require(started.has_value(), "a tunnel starts");
    owner.tunnel = std::move(*started);
    if (!server) {
      for (int i = 0; i < 2; ++i) {
        auto& user = *owner.users.emplace_back(std::make_unique<User>());
        if (auto stream = owner.tunnel->open({{":method", "CONNECT"}, {":authority", "10.0.0.1:80"}}, user))
          user.stream = *stream;
      }
    }
    std::vector<uint8_t> record;
    for (size_t at = 0; at < size && owner.tunnel;) {
      const size_t n = std::min({piece, size - at, kMaxPlaintext});
      record.assign(n + kRecordOverhead, 0);
      std::memcpy(record.data() + kRecordHeader, data + at, n);
      if (!peer_sealer->seal_in_place(record.data(), n, ContentType::kApplicationData)) break;
      if (send(peer.get(), record.data(), record.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(record.size())) break;
      at += n;
      loop.run_once(std::chrono::milliseconds(0));
      char sink[65536];
      while (recv(peer.get(), sink, sizeof sink, 0) > 0) {
      }
      require(io.budget.used() <= kBudget, "what is kept stays within the budget");
      require(io.buffers.lent() <= 1, "only unsent bytes hold a buffer");
    }
    peer.reset();
    for (int i = 0; i < 4; ++i) loop.run_once(std::chrono::milliseconds(0));
    // Streams that the peer left stalled still hold their bytes; ending the tunnel gives them back, but for those that were received
    // whole: they wait for their sinks, which give them up here.
    owner.tunnel.reset();
    for (const auto& user : owner.users) {
      if (user->stream != nullptr) std::exchange(user->stream, nullptr)->abandon(H2Error::kCancel);
    }
    require(io.budget.used() == 0, "nothing is kept for a tunnel and users that are gone");
    require(io.buffers.lent() == 0, "all buffers are back");
  }
  return 0;
}
