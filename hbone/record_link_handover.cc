// A link's way to another process: everything that is between the session and the transport, in order.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "hbone/record_link.h"
#include "mesh/reason.h"

namespace zt::hbone {

bool RecordLink::seal_behind(std::span<const uint8_t> content) {
  assert(!in_batch_);
  if (content.empty()) return true;
  keep_unsent();
  std::vector<uint8_t> record(kRecordSlotBytes);
  while (!content.empty()) {
    const auto part = content.first(std::min(content.size(), kMaxPlaintext));
    std::memcpy(record.data() + kRecordHeader, part.data(), part.size());
    const auto sealed = sealer_.seal_in_place(record.data(), part.size(), ContentType::kApplicationData);
    if (!sealed) {
      user_.on_link_lost(sealed.error().reason, sealed.error().text);
      return false;
    }
    unsent_.insert(unsent_.end(), record.data(), record.data() + *sealed);
    content = content.subspan(part.size());
  }
  // A transport that was blocked tells by an edge; one that was not is asked now.
  if (!std::exchange(blocked_, true)) on_writable();
  if (transport_ == nullptr) return false;
  if (blocked_ && !blocked_timer_.armed()) {
    blocked_timer_.start_after(std::min<Clock::duration>(kSettleAfter, send_timeout_), [this] { on_blocked_timer(); });
  }
  if (charge(held_elsewhere_)) return true;
  user_.on_link_lost(Reason::kResourceLimit, "memory is short");
  return false;
}

void RecordLink::freeze() {
  assert(!in_batch_);
  transport_->detach();
  blocked_timer_.cancel();
  keep_unsent();
  held_.release();
}

void RecordLink::export_to(TunnelState& state) const {
  state.sealer = sealer_.export_state();
  state.opener = opener_.export_state();
  state.partial = partial_;
  state.unsent.assign(unsent_.begin() + static_cast<ptrdiff_t>(unsent_begin_), unsent_.end());
  if (!state.unsent.empty()) state.stuck = std::chrono::duration_cast<std::chrono::milliseconds>(io_.loop.now() - last_taken_);
}

void RecordLink::resume(const TunnelState& state) {
  unsent_ = state.unsent;
  last_taken_ = io_.loop.now() - std::clamp<Clock::duration>(state.stuck, Clock::duration::zero(), send_timeout_);
}

Result<> RecordLink::thaw(TransportUser& user) {
  ZT_TRY(transport_->attach(user));
  // What happened meanwhile is told as an edge; but what is here already has none.
  early_ = !partial_.empty();
  read_again_ = true;
  blocked_ = !unsent_.empty();
  if (blocked_) {
    blocked_timer_.start(std::max(last_taken_ + send_timeout_, io_.loop.now()), [this] { on_blocked_timer(); });
  }
  if (!charge(held_elsewhere_)) return fail(Reason::kResourceLimit, "memory is short");
  return {};
}

}  // namespace zt::hbone
