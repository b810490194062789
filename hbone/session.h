#pragma once
#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "hbone/flood_guard.h"
#include "hbone/frame_cursor.h"
#include "hbone/receive_turn.h"
#include "hbone/record_link.h"
#include "hbone/session_memory.h"
#include "hbone/stream.h"
#include "hbone/tunnel_config.h"
#include "hbone/tunnel_state.h"

namespace zt::hbone {

inline constexpr size_t kMinBatchBytes = 64 * 1024;       // per write towards a transport that does not take more
inline constexpr size_t kFairQuantumBytes = 64 * 1024;    // per turn and stream when several have bytes
inline constexpr size_t kMaxOurFrameBytes = 1024 * 1024;  // of DATA that we send, where the peer allows as much
// Frames that wait to be sent, beyond which a peer is made to take some before more of what it sends is looked at.
inline constexpr size_t kMaxQueuedFrames = 1000;
// What one of them costs nghttp2 and its allocator, about.
inline constexpr size_t kQueuedFrameBytes = 256;

// The HTTP/2 connection of one tunnel (nghttp2) and the streams on it. Frames come in from the records of a ReceiveTurn and go out
// through the RecordLink; it has no timer and never acts by itself. Owned by its Tunnel, which it asks for a turn when there is something to
// do, and tells of requests and of faults.
//
// Credit: the connection's is returned on receipt, a stream's when its sink has taken the bytes.
class Session {
 public:
  Session(Tunnel& tunnel, WorkerIo& io, MemoryBudget& account, RecordLink& link, TunnelRole role, const TunnelConfig& config);
  ~Session();
  Session(const Session&) = delete;
  // Queues the preface, SETTINGS and the connection's window.
  Result<> begin();

  // --- Streams (session.cc)
  Result<Stream*> open(const Headers& headers, StreamHandler& handler);
  [[nodiscard]] size_t streams() const { return stream_count_; }
  [[nodiscard]] size_t free_streams() const;
  [[nodiscard]] bool several_ready() const { return !ready_.empty() && &ready_.front() != &ready_.back(); }
  // The number of streams fell, or the peer's limits changed, since the last call.
  [[nodiscard]] bool take_streams_changed() { return std::exchange(streams_changed_, false); }
  [[nodiscard]] bool streams_have_changed() const { return streams_changed_; }
  void streams_changed() { streams_changed_ = true; }
  // The tunnel is over: every stream is told, except those that outlive it with what they have received whole.
  void end_streams(Reason reason);
  // Client role: streams that have no answer yet.
  void give_up_unanswered();

  // --- Receiving (session_receive.cc)
  // Takes in the content of a record. False: the tunnel is over.
  bool feed(ReceiveTurn& turn, std::span<const uint8_t> content);
  // Tells the handlers what this turn, or what was sent in it, brought.
  void deliver_touched(ReceiveTurn* turn);
  // Whether the peer has gone too far; the tunnel is closed with ENHANCE_YOUR_CALM then.
  bool close_flooded(ReceiveTurn* turn);
  // Bytes that the peer makes us hold here, beside what its streams keep.
  [[nodiscard]] size_t held_bytes() const;
  [[nodiscard]] const FrameCursor& cursor() const { return cursor_; }

  // --- Sending (session_send.cc)
  [[nodiscard]] bool wants_to_send() const { return !ready_.empty() || wants_control(); }
  // Batches of control frames and of the streams' bytes, until there is no more or the transport is blocked.
  void send_turn();
  // As much of what is queued as an open batch has room for, without streams' bytes. False: the tunnel is over.
  bool drain_control();
  // The last batch: what is queued, and close_notify, as far as the transport takes it.
  void drain_last();

  // --- Hand-over (session_handover.cc, session_rebuild.cc); see Tunnel, which does these in order
  // Announces that we keep no table of headers.
  void announce_no_table();
  // What is queued goes, and streams that end by it are told. False: the tunnel is over.
  bool settle();
  [[nodiscard]] std::optional<Unmovable> unmovable() const;
  // From here on nothing is offered to a handler, and memory is not accounted for.
  void freeze();
  void export_to(TunnelState& state) const;
  void thaw();
  [[nodiscard]] std::vector<std::pair<int32_t, StreamHandler*>> users() const;
  // Streams go without a word.
  void forget_streams();
  // Instead of begin(): a session that has come to `state`. Nothing of it is sent yet.
  Result<> rebuild(const TunnelState& state, const AttachStream& attach);

  // --- The connection
  void ping();
  void notice_shutdown();
  void terminate(H2Error code);
  [[nodiscard]] bool ping_outstanding() const { return ping_outstanding_; }
  // The peer has acknowledged a PING that was sent after our first GOAWAY.
  [[nodiscard]] bool goaway_heard() const { return goaway_heard_; }
  [[nodiscard]] bool goaway_received() const { return goaway_received_; }
  // nghttp2 has ended the connection, and why.
  [[nodiscard]] bool ended() const { return nghttp2_session_want_read(session_) == 0; }
  [[nodiscard]] const std::string& error() const { return error_; }
  [[nodiscard]] H2Error error_code() const { return error_code_; }
  [[nodiscard]] const AnnouncedSettings& announced() const { return announced_; }
  [[nodiscard]] bool inside() const { return inside_; }

 private:
  friend class Stream;
  friend struct SessionCallbacks;
  friend class SessionRebuild;

  using AllList = boost::intrusive::list<Stream, boost::intrusive::member_hook<Stream, Stream::Hook, &Stream::all_hook_>,
                                         boost::intrusive::constant_time_size<false>>;
  using ReadyList = boost::intrusive::list<Stream, boost::intrusive::member_hook<Stream, Stream::Hook, &Stream::ready_hook_>,
                                           boost::intrusive::constant_time_size<false>>;
  using TouchedList = boost::intrusive::list<Stream, boost::intrusive::member_hook<Stream, Stream::Hook, &Stream::touched_hook_>,
                                             boost::intrusive::constant_time_size<false>>;

  // While a handler is called the session must not be destroyed.
  struct CallScope {
    explicit CallScope(Session& owner) : session(owner) { ++session.calls_; }
    ~CallScope() { --session.calls_; }
    CallScope(const CallScope&) = delete;
    Session& session;
  };
  // The DATA frame being built
  struct DataTurn {
    Stream* stream = nullptr;
    size_t bytes = 0;
    bool end = false;
    bool sent = false;
    uint8_t* payload = nullptr;
  };
  enum class Drained : uint8_t { kAll, kBatchFull, kOver };

  [[nodiscard]] size_t most_held() const { return std::min<size_t>(kMaxHeldFrames, announced_.max_header_bytes); }
  Result<> make(const TunnelState* resumed);
  [[nodiscard]] bool tunnel_over() const;
  void wake();
  Stream& add_stream(int32_t id);
  void free_stream(Stream& stream);
  void detach(Stream& stream, Reason reason);
  void fault(const char* what);

  void touch(Stream& stream);
  void deliver(Stream& stream, ReceiveTurn* turn);
  size_t offer(Stream& stream, ReceiveTurn* turn);
  bool keep(Stream& stream, std::span<const iovec> received, size_t taken);
  void credit(Stream& stream, size_t bytes);
  void set_window(Stream& stream, uint32_t bytes);
  bool make_room();

  [[nodiscard]] bool wants_control() const { return !late_control_.empty() || nghttp2_session_want_write(session_) != 0; }
  void make_ready(Stream& stream);
  void unblock_streams();
  size_t append_control(std::span<const uint8_t> bytes);
  Drained drain();
  bool send_batch();
  bool give_up(const Error& why);
  void emit_ready();
  void emit_data(Stream& stream, size_t quantum);

  Tunnel& tunnel_;
  WorkerIo& io_;
  MemoryBudget& account_;
  RecordLink& link_;
  SessionMemory memory_;
  nghttp2_session* session_ = nullptr;
  const TunnelConfig& config_;
  AnnouncedSettings announced_;
  TunnelRole role_;

  AllList all_;
  ReadyList ready_;
  TouchedList touched_;
  size_t stream_count_ = 0;

  ReceiveTurn* turn_ = nullptr;  // while frames are fed
  FrameCursor cursor_;
  uint32_t arriving_headers_ = 0;  // of the block that is being read: there is one at a time
  FloodGuard guard_;
  PathRtt path_rtt_;

  DataTurn data_;
  std::vector<uint8_t> late_control_;    // control bytes that came up while a DATA frame was being built, or had no room
  size_t batch_bytes_ = kMinBatchBytes;  // how much to seal per write: adapts to what the transport takes
  int32_t last_pulled_ = -1;             // the stream that had the last turn, and how many it had in a row before that
  uint32_t pulls_in_a_row_ = 0;

  std::string error_;  // what nghttp2 found wrong with the peer
  H2Error error_code_ = H2Error::kProtocolError;
  const char* flooded_ = nullptr;          // what there was too much of
  std::vector<uint8_t>* aside_ = nullptr;  // takes control frames instead of the link
  bool rebuilding_ = false;                // callbacks do nothing: what is fed and sent is not real
  bool frozen_ = false;
  bool inside_ = false;  // an nghttp2 call
  uint32_t calls_ = 0;   // of handlers, that have not returned
  bool batch_full_ = false;
  bool streams_changed_ = false;
  bool ping_outstanding_ = false;
  bool goaway_heard_ = false;
  bool goaway_received_ = false;
  bool peer_took_credit_ = false;  // made its initial window smaller
  uint32_t peer_window_ = NGHTTP2_INITIAL_WINDOW_SIZE;
  int32_t goaway_last_stream_ = 0;  // of the peer's
  uint32_t goaway_code_ = 0;
};

}  // namespace zt::hbone
