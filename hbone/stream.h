#pragma once
#include <sys/uio.h>

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hbone/kept_bytes.h"
#include "hbone/receive_turn.h"
#include "hbone/receive_window.h"
#include "hbone/worker_io.h"
#include "mesh/reason.h"

namespace zt::hbone {

class Session;
class Tunnel;
struct SessionCallbacks;

// HTTP/2 error codes of RFC 9113 §7 that we use.
enum class H2Error : uint32_t {
  kNoError = 0x0,
  kProtocolError = 0x1,
  kInternalError = 0x2,
  kStreamClosed = 0x5,
  kRefusedStream = 0x7,
  kCancel = 0x8,
  kConnectError = 0xa,
  kEnhanceYourCalm = 0xb,
};

// Headers of one request or response; names are lower case, pseudo-headers included.
using Headers = std::vector<std::pair<std::string, std::string>>;

// What StreamHandler::pull() found in the stream's source.
struct PullResult {
  enum class State : uint8_t {
    kMore,     // filled; there may be more at once
    kDrained,  // nothing more now; Stream::readable() will be called
    kEnd,      // the source is at its end: END_STREAM after these bytes
    kReset,    // the source was reset: RST_STREAM(CONNECT_ERROR)
  };
  size_t bytes = 0;
  State state = State::kDrained;
};

// Who may call whom from inside what (asserted in debug builds). All of it on the worker's thread.
// - Stream::readable(), abandon(), respond(), set_handler() and Tunnel::open(), drain(), close() call no handler and may be called at
//   any time, from inside every call to a handler or owner too, on any stream or tunnel.
// - Stream::resume_delivery() calls on_data(), on_end_stream() and on_closed() of its own stream before it returns. From inside a
//   stream's own on_response() or on_data() it does nothing.
// - The tunnel calls handlers and TunnelOwner::on_request() while it reads, at the end of a turn, from resume_delivery(), and, with
//   on_closed(kResourceLimit) only, whenever another stream of this worker needs the memory. Never from inside pull() of the same tunnel,
//   and never while nghttp2 is at work.
// - A tunnel may be destroyed from TunnelOwner::on_tunnel_closed() and from outside of its calls, not from inside another one. Its
//   destructor tells the streams that are left.

// Who uses a stream: a relay, or whoever waits for a CONNECT answer. After on_closed() the stream is gone.
class StreamHandler {
 public:
  // Client role: the answer to CONNECT.
  virtual void on_response(Headers headers) noexcept = 0;
  // Fill `slots` from the source, in order. They are record slots of the outgoing batch: what is read here is sealed in place.
  virtual PullResult pull(std::span<const iovec> slots) noexcept = 0;
  // Take received bytes; returns how many were taken. The rest is kept (within the stream's window) and offered again
  // after Stream::resume_delivery(). `data` is gone once a call to another stream or tunnel has been made.
  virtual size_t on_data(std::span<const iovec> data) noexcept = 0;
  // The peer half-closed (END_STREAM) and all its bytes were taken.
  virtual void on_end_stream() noexcept = 0;
  // The stream is over. kOk: both sides ended in order. kStreamReset: the peer reset it, `code` says how. Others: the tunnel failed.
  // What was received whole (END_STREAM) has been offered and taken before, whatever became of the tunnel.
  virtual void on_closed(Reason reason, H2Error code) noexcept = 0;

 protected:
  ~StreamHandler() = default;
};

// One CONNECT stream of a tunnel; users hold a plain pointer until on_closed() or abandon(). Owned by its tunnel's session, or, once it
// has ended there and still has bytes for a slow sink, by itself: it then lives until the sink has taken them or its user
// abandons it, with the tunnel or without. The account that the tunnel charges outlives it.
class Stream {
 public:
  // The source has bytes (or its end) to pull. Cheap, may be called at any time.
  void readable();
  // The sink takes bytes again: offers what was kept.
  void resume_delivery();
  // Inside on_data(): the sink has stopped, though what the peer was promised is taken. No credit is given for it until sink_goes_on(),
  // and then the window begins anew.
  void sink_stopped() { window_.stop(); }
  void sink_goes_on();
  // Server role: answers the request. With `end_stream` no bytes follow (errors).
  void respond(const Headers& headers, bool end_stream);
  // RST_STREAM; the handler is told no more. The stream must not be used after it.
  void abandon(H2Error code);
  void set_handler(StreamHandler* handler) { handler_ = handler; }
  // Only as long as the stream has not outlived it.
  [[nodiscard]] Tunnel& tunnel() const;
  [[nodiscard]] bool outlived_tunnel() const { return session_ == nullptr; }

  // --- Hand-over of one that has outlived its tunnel, with its handler, which is frozen (session_handover.cc): then thaw_rest(), or abandon()
  // once its handler has let go of it. What is kept is not accounted for meanwhile.
  struct Rest {
    std::vector<uint8_t> kept;
    Reason reason = Reason::kOk;  // that on_closed() will say when they are taken
    H2Error code = H2Error::kNoError;
  };
  [[nodiscard]] Rest freeze_rest();
  // May lose it, if memory is short.
  void thaw_rest();
  // As another process froze it, frozen. Never without bytes.
  static Stream& resume_rest(const Rest& rest, MemoryBudget& account, StreamHandler& handler);
  [[nodiscard]] int32_t id() const { return id_; }

 private:
  friend class Session;
  friend class SessionRebuild;
  friend struct SessionCallbacks;

  using Hook = boost::intrusive::list_member_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

  // Received bytes that the sink has not taken, and the claim on memory for them.
  struct Kept final : MemoryBudget::Claim {
    Kept(Stream& owner, MemoryBudget& budget) : Claim(budget), stream(owner) {}
    void revoke() noexcept override { stream.lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm); }
    using Claim::release;

    Stream& stream;
    KeptBytes held;
  };

  Stream(Session* session, uint32_t window, MemoryLimit& limit) : session_(session), window_(window, limit) {}

  // We reset it for a fault that is not its user's: the handler is told at once, what was kept goes.
  void lose(Reason reason, H2Error code) noexcept;
  // What the session does no more for it: offers what is kept, then the end and `end_reason_`. Destroys it when all is said.
  void deliver_detached();

  Session* session_;  // null: detached
  StreamHandler* handler_ = nullptr;
  Hook all_hook_;
  Hook ready_hook_;                   // has bytes to send, waits for its turn
  Hook touched_hook_;                 // something came for it in this turn
  std::unique_ptr<Headers> headers_;  // while they arrive and until delivered
  std::unique_ptr<Kept> kept_;
  ReceiveTurn::Mark mark_;
  ReceiveWindow window_;
  uint32_t header_bytes_ = 0;
  int32_t id_ = -1;
  H2Error close_code_ = H2Error::kNoError;
  Reason end_reason_ = Reason::kOk;  // detached: what on_closed() will say
  bool window_blocked_ : 1 = false;  // has bytes, no credit
  bool bulk_ : 1 = false;            // its last pull filled all slots
  bool sending_ : 1 = false;         // response sent (server) or 200 received (client): DATA may flow
  bool end_sent_ : 1 = false;
  bool answer_queued_ : 1 = false;  // an answer that ends the stream; nghttp2 drops it if a reset is submitted before it is sent
  bool end_received_ : 1 = false;
  bool end_delivered_ : 1 = false;
  bool headers_complete_ : 1 = false;
  bool reset_by_us_ : 1 = false;  // for a reason of its user's, not a fault of the peer's
  bool closed_ : 1 = false;       // nghttp2 has forgotten the stream
  bool delivering_ : 1 = false;   // its handler is being called, by whoever frees it
};

}  // namespace zt::hbone
