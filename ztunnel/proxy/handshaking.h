#pragma once
#include <cstdint>
#include <vector>

#include "base/task.h"
#include "hbone/stream_transport.h"
#include "hbone/tls/handshake.h"
#include "hbone/tunnel.h"
#include "ztunnel/proxy/worker.h"

namespace zt::ztunnel {

struct Handshaken {
  hbone::TlsEstablished tls;
  std::vector<uint8_t> early;  // records that came with the last flight
};

// The TLS handshake on a connected socket, within WorkerSettings::handshake_timeout; counted and timed in the metrics.
// `memory` is charged with what OpenSSL holds meanwhile; when that is needed for others it ends as kResourceLimit, the one that has
// been silent for the longest first. Each step waits for its turn (Worker::handshake_turns()). A server's peer has said hello.
// kTlsFailed, kTlsTimeout, kCertRevoked, kResourceLimit. Worker's thread.
Task<Result<Handshaken>> shake_hands(Worker& worker, MemoryAccount& memory, int fd, hbone::TlsRole role,
                                     hbone::TlsHandshake handshake);
// The same, as a client, over an answered stream of another tunnel.
Task<Result<Handshaken>> shake_hands(Worker& worker, MemoryAccount& memory, hbone::StreamTransport& transport,
                                     hbone::TlsHandshake handshake);

// Whether the lists that are known by now name a certificate of the tunnel's peer; says so in the log.
[[nodiscard]] bool peer_revoked(Worker& worker, const hbone::Tunnel& tunnel);

}  // namespace zt::ztunnel
