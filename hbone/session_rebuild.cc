// nghttp2 can neither export nor import a session. So a fresh one is led to the same state: it is fed frames that the peer might have
// sent, and what it wants to send meanwhile is swallowed. Public API only; what must be known of it is said where it is used.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <string>

#include "hbone/session.h"
#include "hbone/session_callbacks.h"
#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

namespace {
constexpr int32_t kMaxWindow = 0x7fffffff;
constexpr uint32_t kMaxFrame = (1 << 24) - 1;
constexpr int64_t kAtOnce = 1 << 20;  // of DATA that is fed or sent
constexpr std::array<uint8_t, 64 * 1024> kZeros{};

void put(std::vector<uint8_t>& out, uint32_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}
void put_header(std::vector<uint8_t>& out, size_t length, uint8_t type, uint8_t flags, int32_t stream) {
  put(out, static_cast<uint32_t>(length), 3);
  put(out, type, 1);
  put(out, flags, 1);
  put(out, static_cast<uint32_t>(stream), 4);
}
nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())), reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())),
          name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}
}  // namespace

class SessionRebuild {
 public:
  SessionRebuild(Session& session, const TunnelState& state, const AttachStream& attach)
      : our_(session), state_(state), attach_(attach), server_(session.role_ == TunnelRole::kServer) {}
  Result<> run();

 private:
  void check(int rv, const char* what);
  void expect(bool holds, const char* what);
  void swallow();
  void feed(std::span<const uint8_t> bytes, const char* what);

  void settings();
  void peer_settings(bool real);
  void choose_ghost();
  void streams();
  void stream(const StreamState& from);
  void ghost();
  void connection();

  void open(Stream& stream, bool answered);
  void headers(int32_t id, bool answer);
  void receive(int32_t id, int64_t bytes);
  void receive_end(int32_t id);
  void window_update(int32_t id, int64_t more);
  void spend(Stream& stream, int64_t bytes, bool end, int64_t spare);
  void pay();
  [[nodiscard]] int64_t connection_credit() const { return nghttp2_session_get_remote_window_size(our_.session_); }
  [[nodiscard]] int64_t credit(int32_t id) const { return nghttp2_session_get_stream_remote_window_size(our_.session_, id); }

  Session& our_;
  const TunnelState& state_;
  const AttachStream& attach_;
  const bool server_;
  const nghttp2_data_provider provider_ = stream_data();
  std::vector<uint8_t> swallowed_;
  std::string wrong_;

  bool first_block_ = true;
  // A stream that has ended: it brings the session to the last id that there was, past the update of the table's size, and can pay.
  int32_t ghost_id_ = 0;
  std::unique_ptr<Stream> ghost_;
  // What sinks took and the peer has not got back. A window that was made smaller and larger again may owe more than nghttp2 would leave
  // owing, so it is not given back before it can be in earnest.
  std::vector<std::pair<int32_t, size_t>> due_;
  // Any stream that has ended may have used any part of the connection's credit: one that is open pays for all of them.
  Stream* payer_ = nullptr;
  bool payer_ends_ = false;
};

void SessionRebuild::check(int rv, const char* what) {
  if (rv >= 0 || !wrong_.empty()) return;
  wrong_ = std::string(what) + ": " + nghttp2_strerror(rv) + (our_.error_.empty() ? "" : " (" + our_.error_ + ")");
}

void SessionRebuild::expect(bool holds, const char* what) {
  if (!holds && wrong_.empty()) wrong_ = what;
}

void SessionRebuild::swallow() {
  check(nghttp2_session_send(our_.session_), "sending");
  swallowed_.clear();
}

// nghttp2 answers many mistakes of a peer with a GOAWAY and says that all was read: that there was none is seen by error_ in the end.
void SessionRebuild::feed(std::span<const uint8_t> bytes, const char* what) {
  const auto rv = nghttp2_session_mem_recv(our_.session_, bytes.data(), bytes.size());
  check(static_cast<int>(std::min<ssize_t>(rv, 0)), what);
  expect(rv < 0 || static_cast<size_t>(rv) == bytes.size(), what);
}

void SessionRebuild::settings() {
  // Credit that the peer has and credit that it is due are the same for now: the window is what it may send.
  check(nghttp2_session_set_local_window_size(our_.session_, NGHTTP2_FLAG_NONE, 0, state_.receive_credit), "connection window");
  swallow();
  if (server_) feed({reinterpret_cast<const uint8_t*>(NGHTTP2_CLIENT_MAGIC), sizeof NGHTTP2_CLIENT_MAGIC - 1}, "preface");
  peer_settings(false);
  std::vector<uint8_t> ack;
  put_header(ack, 0, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0);
  feed(ack, "acknowledgement");
  swallow();
}

// Its limits come last: requests above its limit of streams would silently wait.
void SessionRebuild::peer_settings(bool real) {
  const PeerSettings& peer = state_.peer_settings;
  std::vector<uint8_t> payload;
  const auto add = [&payload](uint16_t id, uint32_t value) {
    put(payload, id, 2);
    put(payload, value, 4);
  };
  // Our encoder forgets what it has in its table, and its next block begins by telling the peer's decoder to.
  if (real) add(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0);

  add(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, peer.header_table_bytes);
  add(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, real ? peer.max_concurrent_streams : UINT32_MAX);
  add(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, peer.initial_window);
  add(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, real ? peer.max_frame_bytes : kMaxFrame);
  add(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, peer.max_header_list_bytes);
  if (peer.connect_protocol) add(NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1);
  std::vector<uint8_t> frame;
  put_header(frame, payload.size(), NGHTTP2_SETTINGS, 0, 0);
  frame.insert(frame.end(), payload.begin(), payload.end());
  feed(frame, "the peer's settings");
}

// A client: the answer. A server: a request. `answer` false (client): an answer of 100, which changes nothing but the decoder.
void SessionRebuild::headers(int32_t id, bool answer) {
  std::vector<uint8_t> block;
  // After its acknowledgement a decoder demands that the next block says "table size 0", once; that it is said again is allowed.
  if (std::exchange(first_block_, false)) block.push_back(0x20);
  if (server_) {
    block.insert(block.end(), {0x02, 7, 'C', 'O', 'N', 'N', 'E', 'C', 'T', 0x01, 1, 'a'});
  } else if (answer) {
    block.push_back(0x88);
  } else {
    block.insert(block.end(), {0x08, 3, '1', '0', '0'});
  }
  std::vector<uint8_t> frame;
  put_header(frame, block.size(), NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id);
  frame.insert(frame.end(), block.begin(), block.end());
  feed(frame, "headers");
}

void SessionRebuild::window_update(int32_t id, int64_t more) {
  for (; more > 0; more -= std::min<int64_t>(more, kMaxWindow)) {
    std::vector<uint8_t> frame;
    put_header(frame, 4, NGHTTP2_WINDOW_UPDATE, 0, id);
    put(frame, static_cast<uint32_t>(std::min<int64_t>(more, kMaxWindow)), 4);
    feed(frame, "window update");
  }
}

// DATA that came before.
void SessionRebuild::receive(int32_t id, int64_t bytes) {
  while (bytes > 0 && wrong_.empty()) {
    const int64_t room = nghttp2_session_get_local_window_size(our_.session_);
    const int64_t part = std::min({bytes, kAtOnce, room, int64_t{our_.announced_.max_frame_bytes}});
    expect(part > 0, "no credit for what was received");
    if (part <= 0) return;
    std::vector<uint8_t> head;
    put_header(head, static_cast<size_t>(part), NGHTTP2_DATA, 0, id);
    feed(head, "data");
    for (int64_t done = 0; done < part; done += static_cast<int64_t>(kZeros.size())) {
      feed(std::span(kZeros).first(static_cast<size_t>(std::min<int64_t>(part - done, kZeros.size()))), "data");
    }
    check(nghttp2_session_consume_connection(our_.session_, static_cast<size_t>(part)), "credit of the connection");
    swallow();
    bytes -= part;
  }
}

void SessionRebuild::receive_end(int32_t id) {
  std::vector<uint8_t> frame;
  put_header(frame, 0, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, id);
  feed(frame, "end of a stream");
}

// DATA that we sent before. nghttp2 sends none, not even an END_STREAM without bytes, while the connection has no credit: `spare` is
// what it has left then.
void SessionRebuild::spend(Stream& stream, int64_t bytes, bool end, int64_t spare) {
  do {
    const int64_t part = std::min(bytes, kAtOnce);
    window_update(0, part + spare - connection_credit());
    our_.data_ = {.stream = &stream, .bytes = static_cast<size_t>(part), .end = end && part == bytes};
    // Refused if the item waits for credit: it has been sent then.
    (void)nghttp2_session_resume_data(our_.session_, stream.id_);
    swallow();
    expect(our_.data_.sent, "the session did not send");
    our_.data_.stream = nullptr;
    bytes -= part;
  } while (bytes > 0 && wrong_.empty());
}

void SessionRebuild::open(Stream& stream, bool answered) {
  if (server_) {
    headers(stream.id_, false);
    check(nghttp2_session_set_stream_user_data(our_.session_, stream.id_, &stream), "a request");
    if (answered) {
      const nghttp2_nv answer = field(":status", "200");
      check(nghttp2_submit_response(our_.session_, stream.id_, &answer, 1, &provider_), "answer");
      swallow();
    }
    return;
  }
  // The next id only grows, so streams come in the order of theirs.
  check(nghttp2_session_set_next_stream_id(our_.session_, stream.id_), "a stream's id");
  const std::array request{field(":method", "CONNECT"), field(":authority", "a")};
  const int32_t id = nghttp2_submit_request(our_.session_, nullptr, request.data(), request.size(), &provider_, &stream);
  check(id, "request");
  expect(id == stream.id_, "a stream got another id");
  swallow();
  if (answered) headers(stream.id_, true);
}

// Frames for a later stream than was ever opened are the end of a connection, and the peer's for one that we have just reset are on their way:
// the last one must have been there. A client's session compares with the last request that it has sent, not with its next id.
void SessionRebuild::choose_ghost() {
  std::set<int32_t> open;
  for (const StreamState& each : state_.streams) open.insert(each.id);
  const int32_t last = server_ ? state_.cursor.largest_stream : state_.next_stream - 2;
  if (last > 0 && !open.contains(last)) {
    ghost_id_ = last;
    return;
  }
  for (int32_t id = 1; id < last && ghost_id_ == 0; id += 2) {
    if (!open.contains(id)) ghost_id_ = id;
  }
}

void SessionRebuild::ghost() {
  ghost_.reset(new Stream(&our_, 0, our_.account_.limit()));
  ghost_->id_ = ghost_id_;
  open(*ghost_, true);
}

void SessionRebuild::streams() {
  choose_ghost();
  for (const StreamState& each : state_.streams) {
    if (ghost_id_ != 0 && ghost_ == nullptr && ghost_id_ < each.id) ghost();
    stream(each);
    if (!wrong_.empty()) return;
  }
  if (ghost_id_ != 0 && ghost_ == nullptr) ghost();
  if (payer_ == nullptr) payer_ = ghost_.get();
  // Nobody has an answer, but a provisional one may have been read.
  if (first_block_ && !server_ && !state_.streams.empty()) headers(state_.streams.front().id, false);
}

void SessionRebuild::stream(const StreamState& from) {
  Stream& to = our_.add_stream(from.id);
  to.headers_complete_ = from.headers_complete;
  to.sending_ = from.sending;
  to.end_sent_ = from.end_sent;
  to.end_received_ = from.end_received;
  to.end_delivered_ = from.end_delivered;
  to.bulk_ = from.bulk;
  to.header_bytes_ = from.header_bytes;
  to.window_.resume(from.window);
  expect(!(from.end_sent && from.end_received), "a stream that has ended");
  expect(server_ || from.id < state_.next_stream, "a stream beyond the last");
  expect(server_ || from.headers_complete == (from.sending || from.end_sent), "a stream that was half answered");
  const bool answered = from.sending || from.end_sent;
  open(to, answered);

  // What the peer may send. window − credit is what it sent and has not got back: kept, withheld, or taken by the sink and below what
  // is worth a WINDOW_UPDATE. A window that was made smaller takes no credit back, so it is made smaller here too, afterwards.
  const int64_t held = static_cast<int64_t>(from.kept.size()) + from.window.withheld;
  if (!from.end_received) {
    const int64_t window = from.window.bytes;
    const int64_t outstanding = std::max(window - from.receive_credit, held);
    const int64_t wide = from.receive_credit + outstanding;
    check(nghttp2_session_set_local_window_size(our_.session_, NGHTTP2_FLAG_NONE, from.id, static_cast<int32_t>(wide)), "window");
    swallow();
    receive(from.id, outstanding);
    if (wide > window) {
      check(nghttp2_session_set_local_window_size(our_.session_, NGHTTP2_FLAG_NONE, from.id, static_cast<int32_t>(window)),
            "smaller window");
      swallow();
    }
    if (outstanding > held) due_.emplace_back(from.id, static_cast<size_t>(outstanding - held));
    expect(nghttp2_session_get_stream_local_window_size(our_.session_, from.id) == from.receive_credit,
           "a stream's credit to receive differs");
  }
  // What we may send.
  const auto initial = int64_t{state_.peer_settings.initial_window};
  if (!from.end_sent) {
    if (from.send_credit < initial) {
      expect(answered, "bytes were sent before the answer");
      if (answered) spend(to, initial - from.send_credit, false, 1);
    }
    window_update(from.id, from.send_credit - initial);
    expect(credit(from.id) == from.send_credit, "a stream's credit to send differs");
  } else if (initial == 0) {
    window_update(from.id, 1);
  }
  // The first that may still send pays, or else the last that has ended, which then ends with its payment.
  if (answered && (payer_ == nullptr || (payer_ends_ && !from.end_sent))) {
    if (payer_ != nullptr) spend(*payer_, 0, true, 1);
    payer_ = &to;
    payer_ends_ = from.end_sent;
  } else if (from.end_sent) {
    spend(to, 0, true, 1);
  }
  if (from.end_received) receive_end(from.id);

  if (!from.kept.empty()) {
    to.kept_ = std::make_unique<Stream::Kept>(to, our_.account_);
    to.kept_->held.append(from.kept.data(), from.kept.size(), from.kept.size());
  }
  to.handler_ = attach_(to, from);
  if (!from.request.empty()) {
    expect(server_ && !answered, "a request that was answered");
    to.headers_ = std::make_unique<Headers>(from.request);
    to.headers_complete_ = true;
    to.end_delivered_ = false;
    our_.touch(to);
  } else {
    expect(to.handler_ != nullptr, "a stream that is nobody's");
  }
}

void SessionRebuild::pay() {
  if (payer_ == nullptr) return;
  int64_t due = connection_credit() - state_.send_credit;
  if (payer_ends_ && due <= 0) {
    window_update(0, 1 - due);
    due = 1;
  }
  // What it pays with it is given, before or after: more than the largest window cannot be.
  while (due > 0 && wrong_.empty()) {
    const int64_t part = std::min(due, kAtOnce);
    const bool end = payer_ends_ && part == due;
    const bool before = credit(payer_->id_) < part;
    if (before) window_update(payer_->id_, part);
    spend(*payer_, part, end, 0);
    if (!before && !end) window_update(payer_->id_, part);
    due -= part;
  }
}

void SessionRebuild::connection() {
  pay();
  if (ghost_ != nullptr) {
    check(nghttp2_submit_rst_stream(our_.session_, NGHTTP2_FLAG_NONE, ghost_id_, NGHTTP2_NO_ERROR), "reset");
    swallow();
  }
  if (!server_ && state_.next_stream > 1) {
    check(nghttp2_session_set_next_stream_id(our_.session_, state_.next_stream), "the next stream's id");
  }
  window_update(0, state_.send_credit - connection_credit());
  expect(connection_credit() == state_.send_credit, "the connection's credit to send differs");
  if (const auto received = nghttp2_session_get_effective_recv_data_length(our_.session_); received > 0) {
    check(nghttp2_submit_window_update(our_.session_, NGHTTP2_FLAG_NONE, 0, received), "connection window");
  }
  swallow();
  expect(nghttp2_session_get_local_window_size(our_.session_) == state_.receive_credit,
         "the connection's credit to receive differs");
  peer_settings(true);
  if (state_.goaway_received) {
    std::vector<uint8_t> frame;
    put_header(frame, 8, NGHTTP2_GOAWAY, 0, 0);
    put(frame, static_cast<uint32_t>(state_.goaway_last_stream), 4);
    put(frame, state_.goaway_code, 4);
    feed(frame, "goaway");
  }
  swallow();
  if (state_.cursor.data_left > 0) {
    // The rest of the frame that it stands in, as a frame.
    std::vector<uint8_t> frame;
    put_header(frame, state_.cursor.data_left, NGHTTP2_DATA, state_.cursor.data_flags, state_.cursor.data_stream);
    feed(frame, "data");
  }
}

Result<> SessionRebuild::run() {
  our_.aside_ = &swallowed_;
  our_.rebuilding_ = our_.inside_ = true;
  settings();
  if (wrong_.empty()) streams();
  if (wrong_.empty()) connection();
  our_.aside_ = nullptr;
  our_.rebuilding_ = our_.inside_ = false;
  expect(our_.error_.empty(), our_.error_.c_str());
  // A mistake of the state's is to nghttp2 one of the peer's: it has a GOAWAY or a RST_STREAM to say.
  expect(nghttp2_session_want_write(our_.session_) == 0, "something in it cannot be");
  if (!wrong_.empty()) return fail(Reason::kInternal, "the session cannot be rebuilt: " + wrong_);
  for (const auto& [id, bytes] : due_) nghttp2_session_consume_stream(our_.session_, id, bytes);
  return {};
}

Result<> Session::rebuild(const TunnelState& state, const AttachStream& attach) {
  announced_ = state.announced;
  cursor_ = FrameCursor(state.cursor, announced_.max_frame_bytes, most_held());
  frozen_ = true;
  ZT_TRY(make(&state));
  ZT_TRY(SessionRebuild(*this, state, attach).run());
  goaway_received_ = state.goaway_received;
  goaway_last_stream_ = state.goaway_last_stream;
  goaway_code_ = state.goaway_code;
  ping_outstanding_ = state.ping_outstanding;
  peer_window_ = state.peer_settings.initial_window;
  batch_bytes_ = std::clamp<size_t>(state.batch_bytes, kMinBatchBytes, kBatchRecords * kMaxPlaintext);
  streams_changed_ = false;
  // Real from here on: the credit that the connection is due.
  if (state.receive_credit < static_cast<int32_t>(announced_.connection_window)) {
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, static_cast<int32_t>(announced_.connection_window));
  }
  return {};
}

}  // namespace zt::hbone
