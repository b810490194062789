#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hbone/kept_bytes.h"
#include "hbone/receive_window.h"
#include "hbone/worker_io.h"
#include "mesh/reason.h"

namespace zt::hbone {

class Tunnel;
struct TunnelCallbacks;

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

// Who uses a stream: a relay, or whoever waits for a CONNECT answer. The tunnel calls, always on the worker's thread, never
// from inside one of the stream's own methods. After on_closed() the stream is gone.
class StreamHandler {
 public:
  // Client role: the answer to CONNECT.
  virtual void on_response(Headers headers) noexcept = 0;
  // Fill `slots` from the source, in order. They are record slots of the outgoing batch: what is read here is sealed in place.
  virtual PullResult pull(std::span<const iovec> slots) noexcept = 0;
  // Take received bytes; returns how many were taken. The rest is kept (within the stream's window) and offered again
  // after Stream::resume_delivery().
  virtual size_t on_data(std::span<const iovec> data) noexcept = 0;
  // The peer half-closed (END_STREAM) and all its bytes were taken.
  virtual void on_end_stream() noexcept = 0;
  // The stream is over. kOk: both sides ended in order. kStreamReset: the peer reset it, `code` says how. Others: the tunnel failed.
  virtual void on_closed(Reason reason, H2Error code) noexcept = 0;

 protected:
  ~StreamHandler() = default;
};

// One CONNECT stream of a tunnel. Owned by the tunnel; users hold a plain pointer until on_closed() or abandon().
class Stream {
 public:
  // The source has bytes (or its end) to pull. Cheap, may be called at any time.
  void readable();
  // The sink takes bytes again: offers what was kept. Calls on_data() before it returns.
  void resume_delivery();
  // Server role: answers the request. With `end_stream` no bytes follow (errors).
  void respond(const Headers& headers, bool end_stream);
  // RST_STREAM; the handler is told no more. The stream must not be used after it.
  void abandon(H2Error code);
  void set_handler(StreamHandler* handler) { handler_ = handler; }
  [[nodiscard]] Tunnel& tunnel() const { return *tunnel_; }
  [[nodiscard]] int32_t id() const { return id_; }

 private:
  friend class Tunnel;
  friend struct TunnelCallbacks;
  Stream(Tunnel& tunnel, uint32_t window) : tunnel_(&tunnel), window_(window) {}

  // Received bytes that the sink has not taken, and the claim on memory for them.
  struct Kept final : MemoryBudget::Claim {
    Kept(Stream& owner, MemoryBudget& budget) : Claim(budget), stream(owner) {}
    void revoke() noexcept override { stream.lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm); }

    Stream& stream;
    KeptBytes held;
  };

  // We reset it for a fault that is not its user's: the handler is told at once, what was kept goes.
  void lose(Reason reason, H2Error code) noexcept;

  Tunnel* tunnel_;
  StreamHandler* handler_ = nullptr;
  Stream* all_prev_ = nullptr;
  Stream* all_next_ = nullptr;
  Stream* ready_next_ = nullptr;
  Stream* touched_next_ = nullptr;
  std::unique_ptr<Headers> headers_;  // while they arrive and until delivered
  std::unique_ptr<Kept> kept_;
  uint32_t header_bytes_ = 0;
  int32_t id_ = -1;
  int32_t slice_first_ = -1;
  int32_t slice_last_ = -1;
  ReceiveWindow window_;
  H2Error close_code_ = H2Error::kNoError;
  bool ready_ : 1 = false;           // in the ready list
  bool window_blocked_ : 1 = false;  // has bytes, no credit
  bool bulk_ : 1 = false;            // its last pull filled all slots
  bool sending_ : 1 = false;         // response sent (server) or 200 received (client): DATA may flow
  bool end_sent_ : 1 = false;
  bool answer_queued_ : 1 = false;  // an answer that ends the stream; nghttp2 drops it if a reset is submitted before it is sent
  bool end_received_ : 1 = false;
  bool end_delivered_ : 1 = false;
  bool headers_complete_ : 1 = false;
  bool closed_ : 1 = false;      // nghttp2 has forgotten the stream
  bool touched_ : 1 = false;     // in this turn's list
  bool delivering_ : 1 = false;  // inside Tunnel::deliver(), which frees it
};

}  // namespace zt::hbone
