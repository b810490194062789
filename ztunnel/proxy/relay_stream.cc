#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "mesh/reason.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/proxy/request_on_its_way.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {

using hbone::H2Error;
using hbone::PullResult;

namespace {
// A source is read as far as its stream has credit, and a sink is given what it takes. What the kernel buffers beside that is
// memory which no budget of ours sees, and of which a thousand connections with stalled receivers would exhaust tcp_mem for
// everybody. So a socket has small buffers until it has moved enough to show that its receiver goes on.
constexpr int kFirstReceiveBuffer = 32 * 1024;
constexpr int kFirstUnsent = 64 * 1024;
constexpr int kProvenUnsent = 256 * 1024;
constexpr uint64_t kProvenBytes = 4 * 1024 * 1024;
// What is kept here for a receiver that has stopped: the window that every stream begins with. A receiver that was fast has been
// promised more, and its peer has sent it: that goes to the kernel, whose sockets are made for waiting.
constexpr size_t kKeptHere = 64 * 1024;
}  // namespace

StreamRelay::~StreamRelay() {
  if (request != nullptr) request->relay = nullptr;
  io_.loop.cancel_deferred(*this);
  if (stream_ != nullptr) stream_->abandon(H2Error::kConnectError);
  if (socket_ && started_ && !frozen_) io_.loop.unwatch(socket_.get(), *this);
}

Result<> StreamRelay::start(UniqueFd socket, Done done) {
  ZT_TRY(io_.loop.watch(socket.get(), *this));
  socket_ = std::move(socket);
  done_ = std::move(done);
  started_ = true;
  limit_receive_buffer(socket_.get(), kFirstReceiveBuffer);
  limit_unsent(socket_.get(), kFirstUnsent);
  answer_.reset();
  if (stream_ == nullptr) {
    finish(Reason::kStreamReset, "stream closed before the relay began");
    return {};
  }
  // What came with the answer, or before the application was connected.
  stream_->resume_delivery();
  if (!finished_ && early_end_) on_end_stream();
  if (!finished_) stream_->readable();
  return {};
}

void StreamRelay::on_response(hbone::Headers headers) noexcept {
  answer_ = std::make_unique<const hbone::Headers>(std::move(headers));
  answered_.set();
}

PullResult StreamRelay::pull(std::span<const iovec> slots) noexcept {
  if (!started_ || finished_ || source_ended_) return {};
  size_t room = 0;
  for (const iovec& slot : slots) room += slot.iov_len;
  ssize_t n;
  do {
    n = ::readv(socket_.get(), slots.data(), static_cast<int>(std::min<size_t>(slots.size(), IOV_MAX)));
  } while (n < 0 && errno == EINTR);
  if (n > 0) {
    const auto bytes = static_cast<size_t>(n);
    if (from_socket() == 0 && side_ == Side::kSocketIsServer) first_byte_ = Clock::now();
    from_socket() += bytes;
    if (!source_proven_ && from_socket() >= kProvenBytes) {
      source_proven_ = true;
      unlimit_receive_buffer(socket_.get());
    }
    // A short read of a stream socket means drained, unless its end is known to follow.
    const bool more = bytes == room || socket_hung_up_;
    return {bytes, more ? PullResult::State::kMore : PullResult::State::kDrained};
  }
  if (n == 0) {
    source_ended_ = true;
    return {0, PullResult::State::kEnd};
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
  source_ended_ = true;
  finish(side_ == Side::kSocketIsClient ? Reason::kDownstreamReset : Reason::kUpstreamReset);
  return {0, PullResult::State::kReset};
}

size_t StreamRelay::on_data(std::span<const iovec> data) noexcept {
  if (!started_ || finished_) return 0;
  size_t taken = 0;
  size_t total = 0;
  for (const iovec& part : data) total += part.iov_len;
  bool left_to_kernel = false;
  if (sink_blocked_) {
    left_to_kernel = leave_to_kernel(total);
    if (!left_to_kernel) return 0;
  }
  size_t first = 0;
  iovec partial{};
  while (taken < total) {
    // At most IOV_MAX parts a call; a part that went out half is resumed in the middle.
    [[clang::uninitialized]] iovec parts[64];  // or a hardened build would set all of it to zero
    size_t count = 0;
    for (size_t i = first; i < data.size() && count < std::size(parts); ++i) {
      parts[count] = i == first && partial.iov_base != nullptr ? partial : data[i];
      ++count;
    }
    const msghdr message{.msg_name = nullptr,
                         .msg_namelen = 0,
                         .msg_iov = parts,
                         .msg_iovlen = count,
                         .msg_control = nullptr,
                         .msg_controllen = 0,
                         .msg_flags = 0};
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!left_to_kernel && leave_to_kernel(total - taken)) {
          left_to_kernel = true;
          continue;
        }
        sink_blocked_ = true;
        begin_stall();
        break;
      }
      socket_reset();
      break;
    }
    if (to_socket() == 0 && side_ == Side::kSocketIsClient) first_byte_ = Clock::now();
    taken += static_cast<size_t>(n);
    to_socket() += static_cast<uint64_t>(n);
    if (!sink_proven_ && to_socket() >= kProvenBytes) {
      sink_proven_ = true;
      limit_unsent(socket_.get(), kProvenUnsent);
    }
    // After a short write the loop asks once more: only EAGAIN arms the edge that says when there is room again.
    size_t skip = static_cast<size_t>(n);
    for (size_t i = 0; i < count; ++i) {
      if (skip >= parts[i].iov_len) {
        skip -= parts[i].iov_len;
        ++first;
        partial = {};
      } else {
        partial = {static_cast<uint8_t*>(parts[i].iov_base) + skip, parts[i].iov_len - skip};
        break;
      }
    }
  }
  // Little is to wait unsent again, so that the next edge comes when the receiver has gone on and not with its first byte.
  if (left_to_kernel && !finished_) {
    limit_unsent(socket_.get(), sink_proven_ ? kProvenUnsent : kFirstUnsent);
    sink_blocked_ = !is_writable(socket_.get());
    if (sink_blocked_) {
      begin_stall();
    } else {
      go_on();
    }
  }
  return taken;
}

bool StreamRelay::leave_to_kernel(size_t rest) {
  if (rest <= kKeptHere || stream_ == nullptr) return false;
  widen_send_buffer(socket_.get(), rest);
  sink_stopped_ = true;
  stream_->sink_stopped();
  return true;
}

void StreamRelay::go_on() {
  if (std::exchange(sink_stopped_, false) && stream_ != nullptr) stream_->sink_goes_on();
}

void StreamRelay::on_end_stream() noexcept {
  if (!started_) {
    early_end_ = true;
    return;
  }
  if (finished_ || sink_ended_) return;
  sink_ended_ = true;
  ::shutdown(socket_.get(), SHUT_WR);
}

void StreamRelay::on_closed(Reason reason, H2Error code) noexcept {
  stream_ = nullptr;
  if (!started_) {
    unprocessed_ =
        !answer_ && (reason == Reason::kStreamReset ? code == H2Error::kRefusedStream : reason != Reason::kCertRevoked);
    answered_.set();
    return;
  }
  if (reason == Reason::kOk) return finish(Reason::kOk);
  // The peer closed the whole tunnel: to an application that is a reset like any other, and no failure of ours.
  if (reason == Reason::kUpstreamReset || reason == Reason::kDownstreamReset) return finish(reason);
  if (reason == Reason::kPeerLost) return finish(reason, "h2 failed: the peer does not answer any more");
  if (reason == Reason::kSendTimeout) return finish(reason, "h2 failed: the peer takes nothing any more");
  if (reason == Reason::kPeerFlood) return finish(reason, "h2 failed: the peer floods its tunnel");
  if (reason == Reason::kCertRevoked) return finish(reason, "connection closed: peer certificate revoked by CRL");
  if (reason == Reason::kStreamReset) {
    // Contract §2.7: NO_ERROR and CANCEL are how peers close; everything else is a reset, and stays one.
    if (code == H2Error::kNoError || code == H2Error::kCancel) return finish(Reason::kOk);
    const bool by_application = code == H2Error::kConnectError || code == H2Error::kStreamClosed;
    const Reason other_side = side_ == Side::kSocketIsClient ? Reason::kUpstreamReset : Reason::kDownstreamReset;
    return finish(by_application ? other_side : Reason::kStreamReset,
                  by_application ? "" : "h2 failed: stream reset by the peer");
  }
  finish(reason, std::string("h2 failed: ") + std::string(reason_info(reason).name));
}

void StreamRelay::on_ready(uint32_t events) noexcept {
  if (finished_) return;
  if ((events & EPOLLERR) != 0 && source_ended_) return socket_reset();
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket_hung_up_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 && stream_ != nullptr && !source_ended_) stream_->readable();
  if ((events & EPOLLOUT) != 0 && sink_blocked_) {
    sink_blocked_ = false;
    end_stall();
    go_on();
    if (stream_ != nullptr) stream_->resume_delivery();
  }
}

void StreamRelay::socket_reset() { finish(side_ == Side::kSocketIsClient ? Reason::kDownstreamReset : Reason::kUpstreamReset); }

void StreamRelay::kill(Reason reason, std::string text) {
  if (!finished_) finish(reason, std::move(text));
}

void StreamRelay::finish(Reason reason, std::string text) {
  if (finished_) return;
  finished_ = true;
  end_stall();
  end_ = std::make_unique<RelayEnd>(reason, std::move(text));
  if (!frozen_) io_.loop.defer(*this);
}

void StreamRelay::on_turn_end() noexcept {
  io_.loop.unwatch(socket_.get(), *this);
  started_ = false;
  if (stream_ != nullptr) std::exchange(stream_, nullptr)->abandon(H2Error::kConnectError);
  if (end_->reason == Reason::kOk) {
    socket_.reset();
  } else {
    reset_and_close(std::move(socket_));
  }
  if (done_) std::exchange(done_, nullptr)(*this);
}

}  // namespace zt::ztunnel
