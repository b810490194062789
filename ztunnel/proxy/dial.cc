// PodWorker's way to a tunnel, both roles: certificate, TCP, TLS handshake, all within their limits.
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "mesh/reason.h"
#include "ztunnel/proxy/pod_worker.h"

namespace zt::ztunnel {

using hbone::TlsHandshake;

Task<Result<std::unique_ptr<hbone::Tunnel>>> PodWorker::dial(hbone::TunnelKey key, hbone::TunnelOwner& owner) {
  auto result = co_await dial_uncounted(std::move(key), owner);
  worker_.metrics().pool_dials.get({result ? "ok" : reason_info(result.error().reason).name}).add();
  co_return result;
}

Task<Result<std::unique_ptr<hbone::Tunnel>>> PodWorker::dial_uncounted(hbone::TunnelKey key, hbone::TunnelOwner& owner) {
  auto context = co_await worker_.tls().get(key.source, hbone::TlsRole::kClient);
  if (!context) co_return std::unexpected(context.error());

  auto connected = co_await connect_tcp(worker_.loop(), sockets_,
                                        {.destination = key.destination, .source = std::nullopt, .local_leg = false});
  if (!connected) {
    if (connected.error().reason == Reason::kConnectTimeout) {
      co_return fail(Reason::kNetworkPolicy,
                     "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: " + connected.error().text);
    }
    co_return std::unexpected(connected.error());
  }
  UniqueFd fd = std::move(*connected);
  auto made = TlsHandshake::make_client(*context, key.expected);
  if (!made) co_return fail(Reason::kTlsFailed, "tls error: " + made.error().text);
  auto shaken = co_await handshake(fd.get(), hbone::TlsRole::kClient, std::move(*made));
  if (!shaken) co_return fail(shaken.error().reason, "tls error: " + shaken.error().text);
  co_return hbone::Tunnel::start(worker_.io(), worker_.io().budget, hbone::Tunnel::Role::kClient, std::move(fd),
                                 std::move(shaken->tls), std::move(shaken->early), worker_.settings().tunnel, owner);
}

Task<Result<PodWorker::Handshaken>> PodWorker::handshake(int fd, hbone::TlsRole role, TlsHandshake handshake) {
  const auto begun = Clock::now();
  auto result = co_await shake_hands(fd, std::move(handshake), begun + worker_.settings().handshake_timeout);
  // New lists may have come since the peer's certificate was verified, and the tunnel was not there for them to close.
  if (result && result->tls.peer_chain) {
    if (auto good = worker_.tls().check_revocation(*result->tls.peer_chain, role); !good) result = std::unexpected(good.error());
  }
  const std::string_view name = role == hbone::TlsRole::kClient ? "client" : "server";
  worker_.metrics().handshakes.get({name, result ? "ok" : reason_info(result.error().reason).name}).add();
  worker_.metrics().handshake_duration.get({name}).observe(std::chrono::duration<double>(Clock::now() - begun).count());
  co_return result;
}

Task<Result<PodWorker::Handshaken>> PodWorker::shake_hands(int fd, TlsHandshake handshake, Clock::time_point deadline) {
  FdWaiter waiter(worker_.loop());
  if (auto attached = waiter.attach(fd); !attached) co_return std::unexpected(attached.error());
  std::vector<uint8_t> early;
  size_t consumed = 0;
  auto status = handshake.advance({}, consumed);
  for (;;) {
    while (!handshake.output().empty()) {
      const auto out = handshake.output();
      const ssize_t n = ::send(fd, out.data(), out.size(), MSG_NOSIGNAL);
      if (n > 0) {
        handshake.consume_output(static_cast<size_t>(n));
      } else if (errno == EAGAIN) {
        if (!co_await waiter.wait(EPOLLOUT, deadline)) co_return fail(Reason::kTlsTimeout, "tls handshake timed out");
      } else if (errno != EINTR) {
        if (status == TlsHandshake::Status::kFailed) break;  // the peer is gone; what went wrong is known already
        co_return fail(Reason::kTlsFailed, "tls handshake: " + errno_text(errno));
      }
    }
    if (status == TlsHandshake::Status::kFailed) co_return std::unexpected(handshake.error());
    if (status == TlsHandshake::Status::kDone) {
      auto taken = handshake.take();
      if (!taken) co_return std::unexpected(taken.error());
      co_return Handshaken{std::move(*taken), std::move(early)};
    }
    // The buffer is the worker's and not the frame's: a frame lives as long as the handshake.
    auto lease = worker_.io().buffers.borrow();
    const ssize_t n = ::recv(fd, lease.data(), hbone::kWorkerBufferBytes, 0);
    if (n > 0) {
      status = handshake.advance({lease.data(), static_cast<size_t>(n)}, consumed);
      early.assign(lease.data() + consumed, lease.data() + n);
      continue;
    }
    lease.release();
    if (n == 0) co_return fail(Reason::kTlsFailed, "tls handshake eof");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return fail(Reason::kTlsFailed, "tls handshake: " + errno_text(errno));
    if (!co_await waiter.wait(EPOLLIN, deadline)) co_return fail(Reason::kTlsTimeout, "tls handshake timed out");
  }
}

}  // namespace zt::ztunnel
