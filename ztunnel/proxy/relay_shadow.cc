// The server's connection of a pair of pods on this node: its bytes are moved by the client's relay.
#include "mesh/reason.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

Shadow::~Shadow() {
  io_.loop.cancel_deferred(*this);
  if (request_ != nullptr) request_->shadow = nullptr;
  if (front_ == nullptr) return;
  std::exchange(front_, nullptr)->lose_shadow();
}

void Shadow::wait_in(LocalRequest& request) {
  request_ = &request;
  request.shadow = this;
}

void Shadow::follow(SpliceRelay& front) {
  if (request_ != nullptr) std::exchange(request_, nullptr)->shadow = nullptr;
  front_ = &front;
  front.set_shadow(*this);
}

void Shadow::kill(Reason reason, std::string text) {
  if (end_) return;
  end_ = std::make_unique<RelayEnd>(reason, std::move(text));
  if (!frozen_) fall();
}

void Shadow::fall() {
  if (front_ != nullptr) {
    bytes_ = front_->bytes();
    std::exchange(front_, nullptr)->lose_shadow();
  }
  if (request_ != nullptr) std::exchange(request_, nullptr)->shadow = nullptr;
  io_.loop.defer(*this);
}

void Shadow::front_ended(const RelayEnd& how, const RelayBytes& bytes) {
  front_ = nullptr;
  bytes_ = bytes;
  // If it is frozen, nobody is left to thaw it.
  const bool killed = end_ != nullptr;
  if (killed && !frozen_) return;
  frozen_ = false;
  if (killed) return io_.loop.defer(*this);
  // As over a tunnel: what the applications do is the same on both sides, and what befalls the client's is a reset to the server's.
  const bool own = how.reason == Reason::kOk || how.reason == Reason::kUpstreamReset || how.reason == Reason::kDownstreamReset;
  end_ = std::make_unique<RelayEnd>(own ? how.reason : Reason::kDownstreamReset, std::string());
  io_.loop.defer(*this);
}

void Shadow::cut_client(Reason reason, std::string text) {
  if (frozen_ && front_ != nullptr) return front_->kill(reason, std::move(text));  // and this one with it, if it stays
  if (SpliceRelay* const front = std::exchange(front_, nullptr)) {
    bytes_ = front->bytes();
    front->forget_shadow();
    front->kill(reason, std::move(text));
  }
  kill(Reason::kDownstreamReset, {});
}

void Shadow::thaw() {
  frozen_ = false;
  if (end_ && front_ != nullptr) fall();
}

// Both ends of the pair go on in another process, which tells of this one too.
void Shadow::discard() {
  front_ = nullptr;
  connection->record.forget();
  std::exchange(done_, nullptr)(*this);
}

const RelayBytes& Shadow::bytes() const { return front_ != nullptr ? front_->bytes() : bytes_; }

void Shadow::on_turn_end() noexcept {
  if (done_) std::exchange(done_, nullptr)(*this);
}

}  // namespace zt::ztunnel
