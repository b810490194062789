// A session's way to another process: what leaves. The other half is session_rebuild.cc.
#include <algorithm>

#include "hbone/session.h"
#include "hbone/tunnel.h"

namespace zt::hbone {

std::string_view unmovable_text(Unmovable why) {
  switch (why) {
    case Unmovable::kClosed: return "it is closed";
    case Unmovable::kEnding: return "it is about to end";
    case Unmovable::kNotPrepared: return "it was not prepared";
    case Unmovable::kUnacknowledged: return "the peer has not acknowledged our settings";
    case Unmovable::kHandshakeBytes: return "the peer has not begun";
    case Unmovable::kInsideLongFrame: return "it is inside a frame that is too long to be held";
    case Unmovable::kInsidePadding: return "it is inside a frame with padding";
    case Unmovable::kQueued: return "requests wait for the peer's limit of streams";
    case Unmovable::kCreditTakenBack: return "the peer has taken back what it let us send";
  }
  return "";
}

// Headers that the peer compresses with what it sent before could be read by nobody else. When it has acknowledged this, its
// table and ours are empty.
void Session::announce_no_table() {
  const nghttp2_settings_entry none{NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &none, 1);
  wake();
}

// A blocked transport must not keep what nghttp2 has to say in the session: it is sealed behind what waits already.
bool Session::settle() {
  // What is sent ends streams, whose handlers may have more to say.
  for (int round = 0; round < 4; ++round) {
    std::vector<uint8_t> control = std::exchange(late_control_, {});
    aside_ = &control;
    inside_ = true;
    const int rv = nghttp2_session_send(session_);
    inside_ = false;
    aside_ = nullptr;
    if (rv != 0) tunnel_.fail(Reason::kH2Failed, std::string("h2 failed: ") + nghttp2_strerror(rv));
    if (tunnel_over() || !link_.seal_behind(control)) return false;
    deliver_touched(nullptr);
    if (tunnel_over()) return false;
    if (nghttp2_session_want_write(session_) == 0) break;
  }
  return true;
}

std::optional<Unmovable> Session::unmovable() const {
  if (ended() || flooded_ != nullptr) return Unmovable::kEnding;
  if (cursor_.inside_preface()) return Unmovable::kHandshakeBytes;
  // The acknowledged value: all our SETTINGS have been, then, and the peer's have come.
  if (nghttp2_session_get_local_settings(session_, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE) != 0 ||
      nghttp2_session_get_hd_inflate_dynamic_table_size(session_) != 0) {
    return Unmovable::kUnacknowledged;
  }
  if (!cursor_.at_edge()) return Unmovable::kInsideLongFrame;
  if (cursor_.inside_padding()) return Unmovable::kInsidePadding;
  if (nghttp2_session_want_write(session_) != 0 || nghttp2_session_get_outbound_queue_size(session_) != 0)
    return Unmovable::kQueued;
  for (const Stream& stream : all_) {
    // Less than nothing is shown as nothing.
    if (peer_took_credit_ && !stream.end_sent_ && nghttp2_session_get_stream_remote_window_size(session_, stream.id_) == 0) {
      return Unmovable::kCreditTakenBack;
    }
  }
  return std::nullopt;
}

// Others may need the memory meanwhile, but nothing here may change: it is theirs for that moment.
void Session::freeze() {
  frozen_ = true;
  for (Stream& stream : all_) {
    if (stream.kept_ != nullptr) stream.kept_->release();
  }
}

void Session::export_to(TunnelState& state) const {
  state.cursor = cursor_.export_state();
  state.announced = announced_;
  const auto remote = [this](nghttp2_settings_id id) { return nghttp2_session_get_remote_settings(session_, id); };
  state.peer_settings = {
      .header_table_bytes = remote(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE),
      .max_concurrent_streams = remote(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS),
      .initial_window = remote(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE),
      .max_frame_bytes = remote(NGHTTP2_SETTINGS_MAX_FRAME_SIZE),
      .max_header_list_bytes = remote(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE),
      .connect_protocol = remote(NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1,
  };
  if (role_ == TunnelRole::kClient) state.next_stream = static_cast<int32_t>(nghttp2_session_get_next_stream_id(session_));
  state.send_credit = nghttp2_session_get_remote_window_size(session_);
  state.receive_credit = nghttp2_session_get_local_window_size(session_);
  state.goaway_received = goaway_received_;
  state.goaway_last_stream = goaway_last_stream_;
  state.goaway_code = goaway_code_;
  state.ping_outstanding = ping_outstanding_;
  state.batch_bytes = static_cast<uint32_t>(batch_bytes_);
  state.streams.reserve(stream_count_);
  for (const Stream& stream : all_) {
    StreamState& to = state.streams.emplace_back();
    to.id = stream.id_;
    to.headers_complete = stream.headers_complete_;
    to.sending = stream.sending_;
    to.end_sent = stream.end_sent_;
    to.end_received = stream.end_received_;
    to.end_delivered = stream.end_delivered_;
    to.bulk = stream.bulk_;
    to.header_bytes = stream.header_bytes_;
    to.window = stream.window_.export_state();
    if (!to.end_sent) to.send_credit = nghttp2_session_get_stream_remote_window_size(session_, stream.id_);
    if (!to.end_received) to.receive_credit = nghttp2_session_get_stream_local_window_size(session_, stream.id_);
    if (stream.kept_ != nullptr) to.kept = stream.kept_->held.copy();
  }
  std::ranges::sort(state.streams, {}, &StreamState::id);
}

std::vector<std::pair<int32_t, StreamHandler*>> Session::users() const {
  std::vector<std::pair<int32_t, StreamHandler*>> users;
  users.reserve(stream_count_);
  for (const Stream& stream : all_) users.emplace_back(stream.id_, stream.handler_);
  std::ranges::sort(users);
  return users;
}

void Session::thaw() {
  frozen_ = false;
  for (auto stream = all_.begin(); stream != all_.end();) {
    Stream& each = *stream++;
    // Whoever waited for credit, and whoever missed an edge.
    if (each.sending_ && !each.end_sent_) make_ready(each);
    if (each.kept_ != nullptr && !account_.update(*each.kept_, each.kept_->held.allocated(), true)) {
      each.lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm);
    }
  }
  unblock_streams();
}

void Session::forget_streams() {
  while (!all_.empty()) {
    Stream& stream = all_.front();
    if (stream.id_ > 0) nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
    free_stream(stream);
  }
}

// ---- A stream that has outlived its tunnel

Stream::Rest Stream::freeze_rest() {
  kept_->release();
  return {.kept = kept_->held.copy(), .reason = end_reason_, .code = close_code_};
}

void Stream::thaw_rest() {
  if (!kept_->account().update(*kept_, kept_->held.allocated(), true)) lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm);
}

Stream& Stream::resume_rest(const Rest& rest, MemoryBudget& account, StreamHandler& handler) {
  auto& stream = *new Stream(nullptr, 0, account.limit());
  stream.kept_ = std::make_unique<Kept>(stream, account);
  stream.kept_->held.append(rest.kept.data(), rest.kept.size(), rest.kept.size());
  stream.end_received_ = stream.closed_ = true;
  stream.end_reason_ = rest.reason;
  stream.close_code_ = rest.code;
  stream.handler_ = &handler;
  return stream;
}

}  // namespace zt::hbone
