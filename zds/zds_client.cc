#include "zds/zds_client.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"
#include "zds/zds_socket.h"

namespace zt::zds {

namespace {
log::Scope log_zds("inpod::workloadmanager");
}  // namespace

ZdsClient::ZdsClient(EventLoop& loop, PodManager& pods, Options options)
    : loop_(loop),
      pods_(pods),
      options_(std::move(options)),
      session_(pods, *this, options_.on_ready),
      socket_ready_(loop),
      tick_(loop),
      wake_(loop),
      delay_(kReconnectFirst, kReconnectMost, kReconnectSpread, Backoff::any_random()) {}

ZdsClient::~ZdsClient() = default;

Result<> ZdsClient::start() {
  if (auto path = check_zds_path(options_.path); !path) return path;
  tasks_.emplace(loop_).spawn(run());
  return {};
}

void ZdsClient::shutdown() {
  tasks_.reset();
  tick_.cancel();
  wake_.cancel();
  socket_ready_.detach();
  socket_.reset();
  connected_ = false;
  session_.disconnected();
  pods_.drain_all();
}

Task<void> ZdsClient::run() {
  for (;;) {
    if (auto socket = connect_zds(options_.path); !socket) {
      ZT_LOG(log_zds, kWarn, "failed to connect to the node agent, will retry", Field::string("error", socket.error().text));
    } else if (auto watched = socket_ready_.attach(socket->get()); !watched) {
      ZT_LOG(log_zds, kError, "cannot wait for the node agent's socket", Field::string("error", watched.error().text));
    } else {
      socket_ = std::move(*socket);
      co_await serve();
      socket_ready_.detach();
      socket_.reset();
    }
    co_await Sleep(loop_, delay_.next());
  }
}

Task<void> ZdsClient::serve() {
  dropped_ = false;
  if (!co_await send(encode(ZdsHello{}))) co_return;
  ZT_LOG(log_zds, kInfo, "handling new stream", Field::string("path", options_.path));
  connected_ = true;
  session_.connected();
  // One request at a time: the agent matches answers to requests by their order alone.
  while (!dropped_) {
    auto received = receive_packet(socket_.get());
    if (received && !*received) {
      co_await socket_ready_.wait(EPOLLIN, Clock::time_point::max());
      continue;
    }
    if (received && (*received)->end_of_stream()) break;
    if (!received && received.error().reason == Reason::kIo) break;
    answer_.reset();
    handle(std::move(received));
    while (!answer_) {
      answered_.clear();
      co_await answered_.wait(loop_, 2 * ZdsSession::kStartLimit);
    }
    if (!co_await send(encode(WorkloadAck{std::move(*answer_)}))) break;
  }
  // A connection that brought a whole snapshot was a good one; the next is tried soon. Otherwise the waits go
  // on growing, so that a broken agent is not run against.
  if (session_.snapshot_received() && !dropped_) delay_.reset();
  ZT_LOG(log_zds, kInfo, "the node agent's connection ended, will reconnect");
  connected_ = false;
  session_.disconnected();
}

void ZdsClient::handle(Result<std::optional<ZdsPacket>> received) {
  if (!received) return session_.bad_packet(received.error().text);
  ZdsPacket packet = std::move(**received);
  const auto request = decode_request(packet.bytes);
  if (!request) return session_.bad_packet(request.error().text);
  session_.request(*request, std::move(packet.fd), loop_.now());
}

Task<bool> ZdsClient::send(std::string bytes) {
  const auto deadline = Clock::now() + kSendLimit;
  for (;;) {
    const auto sent = send_packet(socket_.get(), bytes);
    if (!sent) {
      ZT_LOG(log_zds, kWarn, "cannot write to the node agent", Field::string("error", sent.error().text));
      co_return false;
    }
    if (*sent) co_return true;
    if (!co_await socket_ready_.wait(EPOLLOUT, deadline)) {
      ZT_LOG(log_zds, kWarn, "the node agent does not read its answers");
      co_return false;
    }
  }
}

void ZdsClient::answer(std::string error) {
  answer_ = std::move(error);
  wake_.start(loop_.now(), [this] { answered_.set(); });
}

void ZdsClient::drop(const std::string&) { dropped_ = true; }

void ZdsClient::rearm() {
  const auto next = session_.next_tick();
  if (!next) return tick_.cancel();
  tick_.start(*next, [this] { session_.tick(loop_.now()); });
}

}  // namespace zt::zds
