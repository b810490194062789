#pragma once
#include <nghttp2/nghttp2.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "hbone/receive_window.h"
#include "hbone/stream.h"
#include "hbone/tls/handshake.h"
#include "hbone/tls/record_layer.h"
#include "hbone/worker_io.h"
#include "identity/spiffe_id.h"

namespace zt::hbone {

inline constexpr size_t kFrameHeader = 9;                 // RFC 9113 §4.1
inline constexpr size_t kMinBatchBytes = 64 * 1024;       // per write towards a socket that does not take more
inline constexpr size_t kFairQuantumBytes = 64 * 1024;    // per turn and stream when several have bytes
inline constexpr size_t kMaxOurFrameBytes = 1024 * 1024;  // of DATA that we send, where the peer allows as much

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
};

// Who owns a tunnel: the pool (client) or the server. Called at the end of a turn, never from inside the tunnel's methods.
class TunnelOwner {
 public:
  // Server role: a request's headers are complete. Give the stream a handler and answer it.
  virtual void on_request(Stream& stream, Headers headers) noexcept = 0;
  // The number of streams fell, or the peer's limits changed.
  virtual void on_streams_changed(Tunnel& tunnel) noexcept = 0;
  // The tunnel is over (its streams were told first). The owner destroys it, here or later.
  virtual void on_tunnel_closed(Tunnel& tunnel, const Error& why) noexcept = 0;

 protected:
  ~TunnelOwner() = default;
};

// One HBONE connection after its TLS handshake: record layer, HTTP/2 session (nghttp2) and the streams on it. Lives and
// dies on one worker.
//
// Sending: at the end of a turn, streams that have bytes take turns; each pulls from its source straight into the record
// slots of a lent buffer, gets one DATA frame over as many records as the peer's frame size allows, and is sealed in place.
// One write sends the batch. Receiving: one read fills a lent buffer, records are opened in place, and the DATA slices in them
// are handed to the streams' sinks, one writev each. An idle tunnel holds no buffer.
//
// Credit: the connection's is returned on receipt, a stream's when its sink has taken the bytes.
class Tunnel final : private Watcher, private Deferred {
 public:
  enum class Role : uint8_t { kClient, kServer };

  // `fd` is a connected, non-blocking socket; `early` are records that arrived with the handshake's last flight. Sends the
  // preface and SETTINGS at the end of this turn. `account` is charged for what the peer makes us hold, and outlives the tunnel.
  static Result<std::unique_ptr<Tunnel>> start(WorkerIo& io, MemoryBudget& account, Role role, UniqueFd fd, TlsEstablished tls,
                                               std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner);
  ~Tunnel();
  Tunnel(const Tunnel&) = delete;

  // Client role: sends CONNECT. Fails when no stream may be opened (GOAWAY, closing, stream limit).
  Result<Stream*> open(const Headers& headers, StreamHandler& handler);

  // No new streams; those there are go on; closes when the last ends. Server: GOAWAY in two steps (RFC 9113 §6.8), the second as
  // it closes, and not before the peer has acknowledged a PING after the first: requests that come until then are served.
  void drain();
  // Closes now: GOAWAY(code), close_notify, streams are told `reason`.
  void close(Reason reason, H2Error code = H2Error::kNoError);

  [[nodiscard]] size_t streams() const { return stream_count_; }
  // Streams that may still be opened now; 0 when draining or closed.
  [[nodiscard]] size_t free_streams() const;
  // Several streams compete and the socket does not take their bytes: another tunnel for the same key would help.
  [[nodiscard]] bool saturated() const;
  [[nodiscard]] Role role() const { return role_; }
  [[nodiscard]] const std::optional<identity::SpiffeId>& peer_identity() const { return peer_identity_; }
  // Nothing unless the TLS context keeps chains.
  [[nodiscard]] const PeerChain& peer_chain() const { return peer_chain_; }
  [[nodiscard]] bool closed() const { return closed_.has_value(); }

 private:
  friend class Stream;
  friend struct TunnelCallbacks;

  Tunnel(WorkerIo& io, MemoryBudget& account, Role role, UniqueFd fd, TlsEstablished tls, const TunnelConfig& config,
         TunnelOwner& owner);
  Result<> start_session();
  [[nodiscard]] std::atomic<uint32_t>& open_count();

  // Watcher, Deferred
  void on_ready(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;

  // Receiving (tunnel_receive.cc)
  void read_input();
  bool open_records(uint8_t* data, size_t size, size_t& used);
  bool feed_session(const uint8_t* data, size_t size);
  void touch(Stream& stream);
  void deliver_touched();
  void deliver(Stream& stream);
  size_t offer(Stream& stream);
  bool keep(Stream& stream, std::span<const iovec> received, size_t taken);
  void credit(Stream& stream, size_t bytes);
  void set_window(Stream& stream, uint32_t bytes);

  // Sending (tunnel_send.cc)
  void send_turn();
  void emit_data(Stream& stream, size_t quantum);
  bool append_control(const uint8_t* data, size_t size);
  void seal_control();
  bool drain_session();
  void end_with_session();
  bool flush();
  void make_ready(Stream& stream);
  Stream* pop_ready();
  void unblock_streams();

  Stream& add_stream(int32_t id);
  void free_stream(Stream& stream);
  void fail_tunnel(Reason reason, std::string text);
  void keepalive();
  void give_up_unanswered();

  WorkerIo& io_;
  MemoryBudget& account_;
  const TunnelConfig& config_;
  TunnelOwner& owner_;
  UniqueFd fd_;
  RecordSealer sealer_;
  RecordOpener opener_;
  std::optional<identity::SpiffeId> peer_identity_;
  PeerChain peer_chain_;
  nghttp2_session* session_ = nullptr;
  Role role_;

  // Streams
  Stream* all_ = nullptr;
  Stream* ready_head_ = nullptr;
  Stream* ready_tail_ = nullptr;
  Stream* touched_head_ = nullptr;
  Stream* touched_tail_ = nullptr;
  size_t stream_count_ = 0;

  // Receive state between turns
  std::vector<uint8_t> partial_;  // the start of a record whose rest has not come; empty and without memory when idle
  bool read_again_ = false;       // the last turn stopped for fairness, or there are early records
  bool hung_up_ = false;          // FIN or an error is known to be in the socket's queue
  bool early_ = false;            // partial_ may hold whole records

  // Send state: bytes [out_begin_, out_end_) of out_ are sealed; between turns only what the socket did not take.
  BufferPool::Lease out_;
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
  size_t control_bytes_ = 0;  // content of the control record being built at out_end_
  size_t batch_bytes_;        // how much to seal per write: adapts to what the socket takes
  bool out_blocked_ = false;
  int32_t last_pulled_ = -1;  // the stream that had the last turn, and how many it had in a row before that
  uint32_t pulls_in_a_row_ = 0;
  std::vector<uint8_t> late_control_;  // control bytes that came up while a DATA frame was being built

  // The DATA frame being built
  struct DataTurn {
    Stream* stream = nullptr;
    size_t bytes = 0;
    bool end = false;
    bool sent = false;
    std::span<const iovec> slots;
  };
  DataTurn data_;

  // Keepalive
  Timer ping_timer_;
  Timer goaway_timer_;
  Clock::time_point last_received_;
  bool ping_outstanding_ = false;

  PathRtt path_rtt_;

  std::string session_error_;  // what nghttp2 found wrong with the peer
  std::optional<Error> closed_;
  bool draining_ = false;
  bool goaway_unheard_ = false;  // server: the peer may not have read our first GOAWAY yet
  bool owner_told_ = false;
  bool streams_changed_ = false;
  bool in_session_ = false;  // inside an nghttp2 call
};

}  // namespace zt::hbone
