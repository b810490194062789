#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "hbone/frame_cursor.h"
#include "hbone/receive_window.h"
#include "hbone/stream.h"
#include "hbone/tls/record_layer.h"
#include "hbone/tls/verified_peers.h"
#include "hbone/tunnel_config.h"
#include "identity/spiffe_id.h"

// A tunnel between two turns, as plain data: all that another process needs to go on with it. Credits and windows in bytes.
namespace zt::hbone {

// Our SETTINGS as the peer knows them, and the connection's window.
struct AnnouncedSettings {
  uint32_t stream_window = 0;
  uint32_t connection_window = 0;
  uint32_t max_frame_bytes = 0;
  uint32_t max_header_bytes = 0;
  uint32_t max_concurrent_streams = 0;  // server role
};

// The peer's (RFC 9113 §6.5.2), as far as they concern us.
struct PeerSettings {
  uint32_t header_table_bytes = 4096;
  uint32_t max_concurrent_streams = UINT32_MAX;
  uint32_t initial_window = 65535;
  uint32_t max_frame_bytes = 16384;
  uint32_t max_header_list_bytes = UINT32_MAX;
  bool connect_protocol = false;
};

struct StreamState {
  int32_t id = 0;
  bool headers_complete = false;  // client: answered
  bool sending = false;
  bool end_sent = false;
  bool end_received = false;
  bool end_delivered = false;
  bool bulk = false;
  uint32_t header_bytes = 0;
  ReceiveWindow::State window;
  int32_t send_credit = 0;     // what the peer lets us send; 0 once we have ended
  int32_t receive_credit = 0;  // what we let the peer send; 0 once it has ended
  std::vector<uint8_t> kept;   // received, not taken by the sink
  // Server: of a request that its owner has not answered, and that is begun anew. The owner puts them here: it got them.
  Headers request;
};

struct TunnelState {
  TunnelRole role = TunnelRole::kClient;
  std::optional<identity::SpiffeId> peer;
  PeerChain peer_chain;
  RecordState sealer, opener;
  std::vector<uint8_t> partial;       // ciphertext: received, the beginning of a record or records not opened yet
  std::vector<uint8_t> unsent;        // ciphertext: sealed records that the transport has not taken
  std::chrono::milliseconds stuck{};  // since the transport last took some of them
  FrameCursor::State cursor;
  AnnouncedSettings announced;
  PeerSettings peer_settings;
  int32_t next_stream = 1;  // client: the id of the next request
  int32_t send_credit = 0, receive_credit = 0;
  bool draining = false;
  bool goaway_unheard = false;  // server: it has said GOAWAY, and the peer has not acknowledged the PING behind it
  bool goaway_received = false;
  int32_t goaway_last_stream = 0;
  uint32_t goaway_code = 0;
  std::chrono::milliseconds goaway_left{};  // of the grace after it, ours or the peer's
  bool ping_outstanding = false;
  std::chrono::milliseconds silent{};  // since something was received
  uint32_t batch_bytes = 0;
  std::vector<StreamState> streams;  // ascending ids
};

// Why a tunnel cannot be handed over now. All but the first two may pass.
enum class Unmovable : uint8_t {
  kClosed,
  kEnding,           // the session has an error to report, or has said its last GOAWAY
  kNotPrepared,      // Tunnel::prepare_handover() was not called
  kUnacknowledged,   // the peer has not acknowledged our SETTINGS
  kHandshakeBytes,   // server: the client's preface has not come whole
  kInsideLongFrame,  // or header block, too long to be held
  kInsidePadding,    // inside a DATA frame with padding
  kQueued,           // something waits to be sent: requests, for the peer's limit of streams
  kCreditTakenBack,  // the peer made its window smaller, so what it lets a stream send is not known
};
[[nodiscard]] std::string_view unmovable_text(Unmovable why);

// Who goes on with a stream. Null: nobody, which only a request that is begun anew may have.
using AttachStream = std::function<StreamHandler*(Stream& stream, const StreamState& state)>;

}  // namespace zt::hbone
