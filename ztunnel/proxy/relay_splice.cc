#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

#include "mesh/reason.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {

namespace {
// What one splice moves: large enough that system calls do not count, small enough to be fair within a worker.
constexpr size_t kSpliceBytes = 1024 * 1024;
constexpr int kPipeBytes = 1024 * 1024;
constexpr size_t kLeastSplice = 64 * 1024;
constexpr size_t kRoundsPerTurn = 4;
}  // namespace

SpliceRelay::~SpliceRelay() {
  if (shadow_ != nullptr) std::exchange(shadow_, nullptr)->front_ended(end_ ? *end_ : RelayEnd{Reason::kDrained, {}}, bytes_);
  io_.loop.cancel_deferred(*this);
  for (Leg* each : {&client_, &server_}) {
    if (each->fd && !frozen_) io_.loop.unwatch(each->fd.get(), *each);
  }
}

Result<> SpliceRelay::start(UniqueFd client, UniqueFd server, Done done) {
  ZT_TRY(io_.loop.watch(client.get(), client_));
  client_.fd = std::move(client);
  if (auto watched = io_.loop.watch(server.get(), server_); !watched) {
    io_.loop.unwatch(client_.fd.get(), client_);
    client_.fd.reset();
    return watched;
  }
  server_.fd = std::move(server);
  done_ = std::move(done);
  return {};
}

void SpliceRelay::leg_ready(int index, uint32_t events) {
  if (finished_) return;
  Leg& ready = leg(index);
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) ready.readable = true;
  if ((events & EPOLLOUT) != 0) {
    ready.writable = true;
    end_stall();
  }
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) ready.hung_up = true;
  // A reset after the source's end would otherwise wait for a write that may never come.
  if ((events & EPOLLERR) != 0 && flows_[index].source_ended) {
    return finish(index == 0 ? Reason::kDownstreamReset : Reason::kUpstreamReset);
  }
  bool again = pump(index);
  if (!finished_) again |= pump(1 - index);
  if (!finished_) charge();
  if (again && !finished_) io_.loop.defer(*this);
}

void SpliceRelay::charge() {
  const size_t held = flows_[0].in_pipe + flows_[1].in_pipe;
  if (held == 0 && in_pipes_.bytes() == 0) return;
  const uint64_t moved = bytes_.client_to_server + bytes_.server_to_client;
  if (!in_pipes_.account().update(in_pipes_, held, moved != moved_))
    kill(Reason::kResourceLimit, "the memory is needed for others");
  moved_ = moved;
}

// Moves what is there from one leg to the other. True: stopped for fairness, there is more.
bool SpliceRelay::pump(int from) {
  Leg& source = leg(from);
  Leg& sink = leg(1 - from);
  Flow& flow = flows_[from];
  // Less the more are ready: all of them together have one turn.
  const size_t rounds = io_.loop.share(kRoundsPerTurn, 1), most = io_.loop.share(kSpliceBytes, kLeastSplice);
  for (size_t round = 0; round < rounds; ++round) {
    if (flow.in_pipe == 0 && source.readable && !flow.source_ended) {
      if (!flow.read_end) {
        // Without bytes there is no pipe: an idle connection costs two sockets and nothing else.
        int available = 0;
        if (ioctl(source.fd.get(), FIONREAD, &available) == 0 && available == 0 && !source.hung_up) {
          source.readable = false;
        } else {
          int ends[2];
          if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) {
            finish(Reason::kResourceLimit, "pipe: " + errno_text(errno));
            return false;
          }
          flow.read_end.reset(ends[0]);
          flow.write_end.reset(ends[1]);
          if (available > 64 * 1024) fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes);
        }
      }
      if (source.readable) {
        const ssize_t n =
            splice(source.fd.get(), nullptr, flow.write_end.get(), nullptr, most, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        if (n > 0) {
          flow.in_pipe = static_cast<size_t>(n);
          if (n >= 64 * 1024) fcntl(flow.write_end.get(), F_SETPIPE_SZ, kPipeBytes);
        } else if (n == 0) {
          flow.source_ended = true;
        } else if (errno == EAGAIN) {
          source.readable = false;
        } else if (errno != EINTR) {
          finish(from == 0 ? Reason::kDownstreamReset : Reason::kUpstreamReset);
          return false;
        }
      }
    }
    if (flow.in_pipe > 0 && sink.writable) {
      const ssize_t n =
          splice(flow.read_end.get(), nullptr, sink.fd.get(), nullptr, flow.in_pipe, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
      if (n > 0) {
        flow.in_pipe -= static_cast<size_t>(n);
        if (from == 1 && moved_from(from) == 0) first_byte_ = Clock::now();
        moved_from(from) += static_cast<uint64_t>(n);
      } else if (n < 0 && errno == EAGAIN) {
        sink.writable = false;
        begin_stall();
      } else if (n < 0 && errno != EINTR) {
        finish(from == 0 ? Reason::kUpstreamReset : Reason::kDownstreamReset);
        return false;
      }
    }
    const bool can_read = flow.in_pipe == 0 && source.readable && !flow.source_ended;
    const bool can_write = flow.in_pipe > 0 && sink.writable;
    if (can_read || can_write) continue;
    if (flow.in_pipe == 0) {
      flow.read_end.reset();
      flow.write_end.reset();
      if (flow.source_ended && !flow.sink_ended) {
        flow.sink_ended = true;
        ::shutdown(sink.fd.get(), SHUT_WR);
        if (flows_[1 - from].sink_ended) finish(Reason::kOk);
      }
    }
    return false;
  }
  return true;
}

void SpliceRelay::kill(Reason reason, std::string text) {
  if (!finished_) finish(reason, std::move(text));
}

void SpliceRelay::finish(Reason reason, std::string text) {
  if (finished_) return;
  finished_ = true;
  end_stall();
  end_ = std::make_unique<RelayEnd>(reason, std::move(text));
  if (!frozen_) io_.loop.defer(*this);
}

void SpliceRelay::on_turn_end() noexcept {
  if (!finished_) {
    bool again = pump(0);
    if (!finished_) again |= pump(1);
    if (!finished_) charge();
    if (again || finished_) io_.loop.defer(*this);
    return;
  }
  for (Leg* each : {&client_, &server_}) {
    if (!each->fd) continue;
    io_.loop.unwatch(each->fd.get(), *each);
    if (end_->reason == Reason::kOk) {
      each->fd.reset();
    } else {
      reset_and_close(std::move(each->fd));
    }
  }
  if (shadow_ != nullptr) std::exchange(shadow_, nullptr)->front_ended(*end_, bytes_);
  if (done_) std::exchange(done_, nullptr)(*this);
}

}  // namespace zt::ztunnel
