#include "zds/zds_peer.h"

#include <fmt/core.h>

#include <utility>

#include "base/log.h"
#include "zds/zds_socket.h"

namespace zt::zds {

namespace {

log::Scope log_peer("zds");

std::string_view uid_of(const WorkloadRequest& request) {
  if (const auto* add = std::get_if<AddWorkload>(&request)) return add->uid;
  if (const auto* keep = std::get_if<KeepWorkload>(&request)) return keep->uid;
  if (const auto* del = std::get_if<DelWorkload>(&request)) return del->uid;
  return {};
}

}  // namespace

ZdsPeer::ZdsPeer(EventLoop& loop, UniqueFd socket, uint64_t id, ZdsPeerOwner& owner)
    : loop_(loop), socket_(std::move(socket)), id_(id), owner_(owner), limit_(loop), retry_(loop) {}

ZdsPeer::~ZdsPeer() {
  loop_.cancel_deferred(*this);
  loop_.unwatch(socket_.get(), *this);
}

Result<> ZdsPeer::start() {
  ZT_TRY(loop_.watch(socket_.get(), *this));
  limit_.start_after(kAnswerLimit, [this] { close(fmt::format("no hello within {} ms", kAnswerLimit.count())); });
  return {};
}

bool ZdsPeer::has_accepted(const std::string& uid) const {
  const auto known = known_.find(uid);
  return known != known_.end() && known->second.accepted;
}

void ZdsPeer::mark(const std::string& uid) {
  if (!said_hello()) return;  // its snapshot will have everything
  dirty_.insert(uid);
  loop_.defer(*this);
}

void ZdsPeer::mark_all() {
  for (const auto& [uid, pod] : owner_.pods()) dirty_.insert(uid);
  loop_.defer(*this);
}

void ZdsPeer::on_ready(uint32_t) noexcept {
  if (read_input()) write_output();
}

void ZdsPeer::on_turn_end() noexcept { write_output(); }

bool ZdsPeer::read_input() {
  for (;;) {
    auto received = receive_packet(socket_.get());
    if (!received) return close(received.error().text);
    if (!*received) return true;
    const ZdsPacket& packet = **received;
    if (packet.end_of_stream()) return close("the proxy closed the connection");
    if (packet.fd) return close("the proxy sent a descriptor");
    if (!on_packet(packet.bytes)) return false;
  }
}

bool ZdsPeer::on_packet(const std::string& bytes) {
  if (phase_ == Phase::kHello) {
    if (auto hello = decode_hello(bytes); !hello) return close("no hello: " + hello.error().text);
    limit_.cancel();
    phase_ = Phase::kSnapshot;
    mark_all();
    owner_.on_hello(*this);
    return true;
  }
  if (!request_ || !request_->sent) return close("the proxy spoke without being asked");
  auto ack = decode_ack(bytes);
  if (!ack) return close(ack.error().text);
  limit_.cancel();
  on_ack(*ack);
  return true;
}

void ZdsPeer::on_ack(const WorkloadAck& ack) {
  const Request request = std::move(*std::exchange(request_, std::nullopt));
  const std::string uid(uid_of(request.message));
  if (!ack.error.empty()) {
    ZT_LOG(log_peer, kWarn, "the proxy refused a request", Field::count("proxy", static_cast<int64_t>(id_)),
           Field::string("request", request_kind(request.message)), Field::string("uid", uid), Field::string("error", ack.error));
  }
  if (std::holds_alternative<SnapshotSent>(request.message)) {
    phase_ = Phase::kLive;
    owner_.on_snapshot_done(*this);
  } else if (std::holds_alternative<DelWorkload>(request.message)) {
    // Whatever it said, there is nothing more to be done about a pod that is gone.
    known_.erase(uid);
    mark(uid);  // it may be wanted again by now
  } else {
    if (const auto known = known_.find(uid); known != known_.end()) known->second.accepted = ack.error.empty();
    if (!ack.error.empty() && !retry_.armed()) retry_.start_after(kRetryInterval, [this] { retry_refused(); });
    if (std::holds_alternative<AddWorkload>(request.message)) owner_.on_answer(uid, ack.error);
  }
}

void ZdsPeer::retry_refused() {
  for (const auto& [uid, known] : known_) {
    if (!known.accepted) mark(uid);
  }
}

bool ZdsPeer::write_output() {
  if (!said_hello()) return true;
  if (!request_) {
    request_ = next_request();
    if (!request_) return true;
    limit_.start_after(kAnswerLimit, [this] {
      close(fmt::format("no answer to {} within {} ms", request_kind(request_->message), kAnswerLimit.count()));
    });
  }
  if (request_->sent) return true;
  const auto sent = send_packet(socket_.get(), encode(request_->message), request_->netns ? request_->netns->fd() : -1);
  if (!sent) return close(sent.error().text);
  request_->sent = *sent;  // false: the next writable event comes back here
  return true;
}

std::optional<ZdsPeer::Request> ZdsPeer::next_request() {
  while (!dirty_.empty()) {
    const std::string uid = std::move(dirty_.extract(dirty_.begin()).value());
    if (auto request = request_for(uid)) return request;
  }
  if (phase_ == Phase::kSnapshot) return Request{SnapshotSent{}, nullptr};
  return std::nullopt;
}

// The next step for one pod, if it needs any.
std::optional<ZdsPeer::Request> ZdsPeer::request_for(const std::string& uid) {
  const auto wanted = owner_.pods().find(uid);
  const auto known = known_.find(uid);
  if (wanted == owner_.pods().end()) {
    if (known == known_.end()) return std::nullopt;
    return Request{DelWorkload{uid}, nullptr};
  }
  const ZdsPod& pod = wanted->second;
  if (known != known_.end() && known->second.info != pod.info) {
    // A proxy takes an add of a pod that it has for a repetition: with another identity it must be another
    // pod.
    return Request{DelWorkload{uid}, nullptr};
  }
  const auto netns = pod.netns ? std::optional(pod.netns->id()) : std::nullopt;
  const bool in_step = known != known_.end() && known->second.accepted && known->second.netns == netns;
  const bool due = phase_ == Phase::kSnapshot || owner_.is_newest(*this);
  if (in_step || !due) return std::nullopt;
  if (!pod.netns) {
    if (phase_ != Phase::kSnapshot) return std::nullopt;
    known_.insert_or_assign(uid, Known{pod.info, netns});
    return Request{KeepWorkload{uid}, nullptr};
  }
  known_.insert_or_assign(uid, Known{pod.info, netns});
  return Request{AddWorkload{uid, pod.info}, pod.netns};
}

bool ZdsPeer::close(const std::string& why) {
  owner_.on_closed(*this, why);
  return false;
}

}  // namespace zt::zds
