#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "hbone/record_link.h"
#include "hbone/session.h"
#include "hbone/stream.h"
#include "hbone/tls/handshake.h"
#include "hbone/transport.h"
#include "hbone/tunnel_config.h"
#include "hbone/tunnel_state.h"
#include "hbone/worker_io.h"
#include "identity/spiffe_id.h"

namespace zt::hbone {

class Tunnel;

// Who owns a tunnel: the pool (client) or the server. What may be called from inside these, and when they are called: stream.h.
class TunnelOwner {
 public:
  // Server role: a request's headers are complete. Give the stream a handler and answer it.
  virtual void on_request(Stream& stream, Headers headers) noexcept = 0;
  // The number of streams fell, or the peer's limits changed. At the end of a turn.
  virtual void on_streams_changed(Tunnel& tunnel) noexcept = 0;
  // The tunnel is over (its streams were told first). At the end of a turn. The owner destroys it, here or later.
  virtual void on_tunnel_closed(Tunnel& tunnel, const Error& why) noexcept = 0;

 protected:
  ~TunnelOwner() = default;
};

// One HBONE connection after its TLS handshake, and whose it is: the records on a transport (RecordLink), the HTTP/2 session with
// its streams (Session), and here what makes them one thing that lives and dies on one worker: turns, keepalive, drain, the end.
//
// Sending: at the end of a turn, streams that have bytes take turns; each pulls from its source straight into the record
// slots of a lent buffer, gets one DATA frame over as many records as the peer's frame size allows, and is sealed in place.
// One write sends the batch. Receiving: one read fills a lent buffer, records are opened in place, and the DATA slices in them
// are handed to the streams' sinks, one writev each. An idle tunnel holds no buffer.
//
// There is no state of a tunnel outside of it, and none of it depends on what carries it.
class Tunnel final : private TransportUser, private RecordLinkUser, private Deferred {
 public:
  using Role = TunnelRole;

  // `early`: records that arrived with the handshake's last flight. Sends the preface and SETTINGS at the end of this turn.
  // `account` is charged for what the peer makes us hold; it outlives the tunnel and its streams.
  static Result<std::unique_ptr<Tunnel>> start(WorkerIo& io, MemoryBudget& account, Role role,
                                               std::unique_ptr<Transport> transport, TlsEstablished tls,
                                               std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner);
  // Over a connected, non-blocking socket.
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

  // The account is kept by this as long as the tunnel needs it.
  void keep_account(std::shared_ptr<const void> account) { account_ = std::move(account); }

  // --- Hand-over to another process (tunnel_handover.cc). On the worker's thread, outside of every call to a handler or owner and of the
  // loop's end of a turn; the state is never that of the middle of a turn. One who leaves: prepare_handover(), then as often as it
  // takes settle() and unmovable(), freeze(), and thaw() or discard(). One who comes: resume(), thaw() or discard().
  //
  // Whoever has a frozen tunnel seals nothing with its keys, so the two must agree on who thaws: if both do, records are sealed
  // twice with one sequence number, which gives the peer's bytes away.

  // Tells the peer to compress its headers without memory. It costs a few bytes a request for the rest of the tunnel's life, so it is
  // not said before a hand-over comes up.
  void prepare_handover();
  // What is queued is sealed, and sent as far as the transport takes it; streams that end by that are told.
  void settle();
  // After settle(), in the same turn.
  [[nodiscard]] std::optional<Unmovable> unmovable() const;
  // Only a movable one. From here on the tunnel does nothing by itself: nothing is read, written or offered, and what it is asked for (close(), drain(),
  // a reset) waits for thaw(). Owners freeze what their streams move likewise.
  [[nodiscard]] TunnelState freeze();
  // Goes on. Kept bytes are offered again when their sinks ask for it (Stream::resume_delivery()).
  void thaw();
  // It goes on elsewhere. Nobody is told anything, neither peer nor streams; destroy it then. Owners have let go of its streams before
  // without touching them.
  void discard();
  // The tunnel as another process froze it, over the same connection; frozen. Touches no socket. `attach` is called once for each
  // stream. Errors (kInternal, kH2Failed): such a state cannot be; streams that were attached are gone, untold.
  static Result<std::unique_ptr<Tunnel>> resume(WorkerIo& io, MemoryBudget& account, std::unique_ptr<Transport> transport,
                                                const TunnelState& state, const TunnelConfig& config, TunnelOwner& owner,
                                                const AttachStream& attach);
  [[nodiscard]] bool frozen() const { return frozen_ != nullptr; }
  // Of its streams, by ascending id. Null: a stream that nobody has taken.
  [[nodiscard]] std::vector<std::pair<int32_t, StreamHandler*>> users() const { return session_.users(); }
  [[nodiscard]] int socket() const { return link_.socket(); }

  [[nodiscard]] size_t streams() const { return session_.streams(); }
  // Streams that may still be opened now; 0 when draining or closed.
  [[nodiscard]] size_t free_streams() const;
  // Several streams compete and the transport does not take their bytes: another tunnel for the same key would help.
  [[nodiscard]] bool saturated() const { return link_.blocked() && session_.several_ready(); }
  [[nodiscard]] Role role() const { return role_; }
  [[nodiscard]] const std::optional<identity::SpiffeId>& peer_identity() const { return peer_identity_; }
  // Nothing unless the TLS context keeps chains.
  [[nodiscard]] const PeerChain& peer_chain() const { return peer_chain_; }
  [[nodiscard]] bool closed() const { return closed_.has_value(); }
  [[nodiscard]] const AnnouncedSettings& announced() const { return session_.announced(); }

 private:
  friend class Session;

  Tunnel(WorkerIo& io, MemoryBudget& account, Role role, std::unique_ptr<Transport> transport, TlsEstablished tls,
         std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner);
  [[nodiscard]] std::atomic<uint32_t>& open_count();
  // A tunnel that ends with streams on it is, to them, an other side that breaks off.
  [[nodiscard]] Reason closed_by_peer() const {
    return role_ == Role::kClient ? Reason::kUpstreamReset : Reason::kDownstreamReset;
  }

  void on_transport(Ready ready) noexcept override;
  void on_link_lost(Reason reason, std::string text) noexcept override { fail(reason, std::move(text)); }
  void on_turn_end() noexcept override;

  // From the session
  void wake() {
    if (frozen_ == nullptr) io_.loop.defer(*this);
  }
  void request(Stream& stream, Headers headers) { owner_.on_request(stream, std::move(headers)); }
  void fail(Reason reason, std::string text);
  // A fault of the peer's: GOAWAY(code) as far as the transport takes it.
  void close_for(H2Error code, const std::string& what);
  void end_with_session();

  void read_input();
  void keepalive();
  void start_goaway_timer(Clock::time_point until);

  std::shared_ptr<const void> account_;  // first: what is charged goes before it
  WorkerIo& io_;
  const TunnelConfig& config_;
  TunnelOwner& owner_;
  Role role_;
  std::optional<identity::SpiffeId> peer_identity_;
  PeerChain peer_chain_;
  RecordLink link_;
  Session session_;

  Timer ping_timer_;
  Timer goaway_timer_;
  Clock::time_point goaway_until_;
  Clock::time_point last_received_;

  // What was asked for meanwhile.
  struct Frozen {
    std::optional<std::pair<Reason, H2Error>> close;
    bool drain = false;
  };
  std::unique_ptr<Frozen> frozen_;
  std::optional<Error> closed_;
  bool draining_ = false;
  bool goaway_unheard_ = false;  // server: the peer may not have read our first GOAWAY yet
  bool goaway_seen_ = false;     // the peer's
  bool owner_told_ = false;
  bool prepared_ = false;  // for a hand-over
};

}  // namespace zt::hbone
