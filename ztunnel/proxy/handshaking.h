#pragma once
#include <cstdint>
#include <vector>

#include "base/task.h"
#include "hbone/tls/handshake.h"
#include "ztunnel/proxy/worker.h"

namespace zt::ztunnel {

struct Handshaken {
  hbone::TlsEstablished tls;
  std::vector<uint8_t> early;  // records that came with the last flight
};

// The TLS handshake on a connected socket, within WorkerSettings::handshake_timeout; counted and timed in the metrics.
// kTlsFailed, kTlsTimeout, kCertRevoked. Worker's thread.
Task<Result<Handshaken>> shake_hands(Worker& worker, int fd, hbone::TlsRole role, hbone::TlsHandshake handshake);

}  // namespace zt::ztunnel
