#include "ztunnel/proxy/handshaking.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

using hbone::TlsHandshake;

namespace {

log::Scope kLog("proxy");

// What OpenSSL holds for a handshake in flight (measured: 41 to 45 KiB), and what goes with it.
constexpr size_t kHandshakeBytes = 48 * 1024;

// Its socket is the handle: whoever waits for it wakes up at its end, and the handshake goes at the end of that turn.
class HandshakeMemory final : public MemoryAccount::Claim {
 public:
  HandshakeMemory(MemoryAccount& account, int fd) : Claim(account), fd_(fd) {}
  [[nodiscard]] bool progress() { return !revoked_ && account().update(*this, kHandshakeBytes, true); }
  [[nodiscard]] bool revoked() const { return revoked_; }

 private:
  void revoke() noexcept override {
    revoked_ = true;
    release();
    ::shutdown(fd_, SHUT_RDWR);
  }
  int fd_;
  bool revoked_ = false;
};

Task<Result<Handshaken>> exchange(Worker& worker, MemoryAccount& account, int fd, hbone::TlsRole role, TlsHandshake handshake,
                                  Clock::time_point deadline) {
  const auto no_memory = [] { return fail(Reason::kResourceLimit, "tls handshake: the memory is needed for others"); };
  HandshakeMemory memory(account, fd);
  if (!memory.progress()) co_return no_memory();
  FdWaiter waiter(worker.loop());
  if (auto attached = waiter.attach(fd); !attached) co_return std::unexpected(attached.error());
  std::vector<uint8_t> early;
  size_t consumed = 0;
  bool readable = role == hbone::TlsRole::kServer;
  auto status = handshake.advance({}, consumed);
  for (;;) {
    while (!handshake.output().empty()) {
      const auto out = handshake.output();
      const ssize_t n = ::send(fd, out.data(), out.size(), MSG_NOSIGNAL);
      if (memory.revoked()) co_return no_memory();
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
    if (!std::exchange(readable, false) && !co_await waiter.wait(EPOLLIN, deadline)) {
      co_return fail(Reason::kTlsTimeout, "tls handshake timed out");
    }
    if (memory.revoked()) co_return no_memory();
    co_await worker.handshake_turns().turn();
    if (!memory.progress()) co_return no_memory();
    // The buffer is the worker's and not the frame's: a frame lives as long as the handshake.
    auto lease = worker.io().buffers.borrow();
    const ssize_t n = ::recv(fd, lease.data(), hbone::kWorkerBufferBytes, 0);
    if (n > 0) {
      status = handshake.advance({lease.data(), static_cast<size_t>(n)}, consumed);
      early.assign(lease.data() + consumed, lease.data() + n);
      continue;
    }
    lease.release();
    if (n == 0) co_return fail(Reason::kTlsFailed, "tls handshake eof");
    readable = errno == EINTR;
    if (!readable && errno != EAGAIN) co_return fail(Reason::kTlsFailed, "tls handshake: " + errno_text(errno));
  }
}

class StreamHandshakeMemory final : public MemoryAccount::Claim {
 public:
  StreamHandshakeMemory(MemoryAccount& account, hbone::StreamTransport& transport) : Claim(account), transport_(transport) {}
  [[nodiscard]] bool progress() { return !revoked_ && account().update(*this, kHandshakeBytes, true); }

 private:
  void revoke() noexcept override {
    revoked_ = true;
    release();
    transport_.wake();
  }
  hbone::StreamTransport& transport_;
  bool revoked_ = false;
};

Task<Result<Handshaken>> exchange_inside(Worker& worker, MemoryAccount& account, hbone::StreamTransport& transport,
                                         TlsHandshake handshake, Clock::time_point deadline) {
  StreamHandshakeMemory memory(account, transport);
  if (!memory.progress()) co_return fail(Reason::kResourceLimit, "tls handshake: the memory is needed for others");
  std::vector<uint8_t> bytes;
  size_t consumed = 0;
  auto status = handshake.advance({}, consumed);
  for (;;) {
    transport.send(handshake.output());
    handshake.consume_output(handshake.output().size());
    if (status == TlsHandshake::Status::kFailed) co_return std::unexpected(handshake.error());
    if (status == TlsHandshake::Status::kDone) {
      auto taken = handshake.take();
      if (!taken) co_return std::unexpected(taken.error());
      bytes.erase(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(consumed));
      co_return Handshaken{std::move(*taken), std::move(bytes)};
    }
    do {
      if (transport.closed()) co_return fail(Reason::kTlsFailed, "tls handshake eof");
      if (!co_await transport.changed(worker.loop(), deadline - Clock::now()))
        co_return fail(Reason::kTlsTimeout, "tls handshake timed out");
      // What has come was told from inside the outer tunnel.
      co_await worker.handshake_turns().turn();
      if (!memory.progress()) co_return fail(Reason::kResourceLimit, "tls handshake: the memory is needed for others");
      bytes = transport.take();
    } while (bytes.empty());
    status = handshake.advance(bytes, consumed);
  }
}

Result<Handshaken> finished(Worker& worker, hbone::TlsRole role, Clock::time_point begun, Result<Handshaken> result) {
  // New lists may have come since the peer's certificate was verified, and the tunnel was not there for them to close.
  if (result && result->tls.peer_chain) {
    if (auto good = worker.tls().check_revocation(*result->tls.peer_chain, role); !good) result = std::unexpected(good.error());
  }
  const std::string_view name = role == hbone::TlsRole::kClient ? "client" : "server";
  worker.metrics().handshakes.get({name, result ? "ok" : reason_info(result.error().reason).name}).add();
  worker.metrics().handshake_duration.get({name}).observe(std::chrono::duration<double>(Clock::now() - begun).count());
  return result;
}

}  // namespace

Task<Result<Handshaken>> shake_hands(Worker& worker, MemoryAccount& memory, int fd, hbone::TlsRole role, TlsHandshake handshake) {
  const auto begun = Clock::now();
  auto result = co_await exchange(worker, memory, fd, role, std::move(handshake), begun + worker.settings().handshake_timeout);
  co_return finished(worker, role, begun, std::move(result));
}

Task<Result<Handshaken>> shake_hands(Worker& worker, MemoryAccount& memory, hbone::StreamTransport& transport,
                                     TlsHandshake handshake) {
  const auto begun = Clock::now();
  auto result =
      co_await exchange_inside(worker, memory, transport, std::move(handshake), begun + worker.settings().handshake_timeout);
  co_return finished(worker, hbone::TlsRole::kClient, begun, std::move(result));
}

bool peer_revoked(Worker& worker, const hbone::Tunnel& tunnel) {
  if (tunnel.closed() || !tunnel.peer_chain()) return false;
  const bool server = tunnel.role() == hbone::TunnelRole::kServer;
  const auto good =
      worker.tls().check_revocation(*tunnel.peer_chain(), server ? hbone::TlsRole::kServer : hbone::TlsRole::kClient);
  if (good) return false;
  ZT_LOG(kLog, kInfo, "closing a tunnel",
         Field::string("peer", tunnel.peer_identity() ? tunnel.peer_identity()->to_string() : ""),
         Field::string("cause", good.error().text));
  return true;
}

}  // namespace zt::ztunnel
