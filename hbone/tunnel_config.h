#pragma once
#include <chrono>
#include <cstdint>

namespace zt::hbone {

enum class TunnelRole : uint8_t { kClient, kServer };

// Windows, limits and time-outs of a tunnel. Defaults are the peers' (contract §2.4) unless a comment says otherwise.
struct TunnelConfig {
  // See receive_window.h.
  uint32_t stream_window_initial = 64 * 1024;
  uint32_t stream_window_max = 4 * 1024 * 1024;
  // Given back on receipt, so no set of stalled streams can use it up.
  uint32_t connection_window = 16 * 1024 * 1024;
  uint32_t max_frame_bytes = 1024 * 1024;    // what we accept
  uint32_t max_concurrent_streams = 200;     // what a server allows
  uint32_t assumed_peer_streams = 100;       // what a client assumes before the peer's SETTINGS
  uint32_t max_header_bytes_server = 65536;  // request header list accepted
  uint32_t max_header_bytes_client = 16384;  // response header list accepted
  std::chrono::milliseconds ping_interval{10'000};
  std::chrono::milliseconds ping_timeout{20'000};
  // After a GOAWAY, for what was on its way when it was sent. Client: how long the peer may take to answer what it was asked
  // before; the real ztunnel never answers a CONNECT that crosses its GOAWAY, and keeps the connection open until its drain
  // ends. Server: how long a peer may take to acknowledge that it has read ours.
  std::chrono::milliseconds goaway_grace{1'000};
  // How long a transport may take none of what there is to send before the tunnel is closed. Long: every peer reads its socket, whatever
  // its streams wait for.
  std::chrono::milliseconds send_timeout{60'000};
};

}  // namespace zt::hbone
