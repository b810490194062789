// Relays on their way to another process. Sockets go as they are, with what the kernel holds for them; so do pipes with bytes in them.
#include <cassert>
#include <utility>

#include "handover/unit.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

// ---- A socket and a stream

handover::StreamRelayState StreamRelay::freeze() {
  assert(movable() && !frozen_);
  frozen_ = true;
  io_.loop.unwatch(socket_.get(), *this);
  return {.source_ended = source_ended_,
          .socket_hung_up = socket_hung_up_,
          .sink_ended = sink_ended_,
          .source_proven = source_proven_,
          .sink_proven = sink_proven_,
          .sink_stopped = sink_stopped_};
}

void StreamRelay::thaw() {
  frozen_ = false;
  // What became possible meanwhile is told as an edge: until then the sink counts as blocked, and the edge gives it what was kept.
  sink_blocked_ = true;
  if (const auto watched = io_.loop.watch(socket_.get(), *this); !watched) finish(watched.error().reason, watched.error().text);
  // Killed while it was frozen.
  if (finished_) io_.loop.defer(*this);
}

void StreamRelay::discard() {
  assert(frozen_);
  stream_ = nullptr;
  socket_.reset();
  started_ = false;
  finished_ = true;
  done_ = nullptr;
}

void StreamRelay::resume(const handover::StreamRelayState& state, const RelayBytes& bytes, UniqueFd socket, Done done) {
  frozen_ = started_ = true;
  socket_ = std::move(socket);
  done_ = std::move(done);
  bytes_ = bytes;
  source_ended_ = state.source_ended;
  socket_hung_up_ = state.socket_hung_up;
  sink_ended_ = state.sink_ended;
  source_proven_ = state.source_proven;
  sink_proven_ = state.sink_proven;
  sink_stopped_ = state.sink_stopped;
}

// ---- Two sockets

void SpliceRelay::freeze(handover::PairUnit& unit, std::vector<int>& descriptors) {
  assert(movable() && !frozen_);
  frozen_ = true;
  if (shadow_ != nullptr) shadow_->freeze();
  io_.loop.cancel_deferred(*this);
  for (Leg* each : {&client_, &server_}) {
    io_.loop.unwatch(each->fd.get(), *each);
    descriptors.push_back(each->fd.get());
  }
  // Not to be taken away from a frozen one; it is the kernel's memory, and stays there.
  in_pipes_.release();
  for (int from : {0, 1}) {
    const Flow& flow = flows_[from];
    unit.flows[from] = {.pipe = static_cast<bool>(flow.read_end),
                        .in_pipe = static_cast<uint32_t>(flow.in_pipe),
                        .source_ended = flow.source_ended,
                        .sink_ended = flow.sink_ended};
    if (!flow.read_end) continue;
    descriptors.push_back(flow.read_end.get());
    descriptors.push_back(flow.write_end.get());
  }
}

void SpliceRelay::thaw() {
  frozen_ = false;
  for (int index : {0, 1}) {
    // Tried in the next turn, and by the edges that registration gives.
    Leg& each = leg(index);
    each.readable = each.writable = true;
    if (const auto watched = io_.loop.watch(each.fd.get(), each); !watched) {
      finish(watched.error().reason, watched.error().text);
    }
  }
  io_.loop.defer(*this);
  if (shadow_ != nullptr) shadow_->thaw();
}

void SpliceRelay::discard() {
  assert(frozen_);
  for (Leg* each : {&client_, &server_}) each->fd.reset();
  for (Flow& flow : flows_) {
    flow.read_end.reset();
    flow.write_end.reset();
  }
  finished_ = true;
  done_ = nullptr;
  if (shadow_ != nullptr) std::exchange(shadow_, nullptr)->discard();
}

void SpliceRelay::resume(const handover::PairUnit& unit, std::vector<UniqueFd> descriptors, Done done) {
  frozen_ = true;
  auto next = descriptors.begin();
  client_.fd = std::move(*next++);
  server_.fd = std::move(*next++);
  for (int from : {0, 1}) {
    Flow& flow = flows_[from];
    flow.in_pipe = unit.flows[from].in_pipe;
    flow.source_ended = unit.flows[from].source_ended;
    flow.sink_ended = unit.flows[from].sink_ended;
    if (!unit.flows[from].pipe) continue;
    flow.read_end = std::move(*next++);
    flow.write_end = std::move(*next++);
  }
  bytes_ = {unit.connection.client_to_server, unit.connection.server_to_client};
  done_ = std::move(done);
}

}  // namespace zt::ztunnel
