#include "ztunnel/dns/tcp_session.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace zt::ztunnel::dns {

namespace {
constexpr size_t kLengthBytes = 2;
constexpr size_t kReadBytes = 4096;  // more when a message needs it
constexpr int kStepsPerTurn = 128;
}  // namespace

void FramedSocket::open(UniqueFd fd) {
  *this = FramedSocket();
  fd_ = std::move(fd);
  readable_ = true;
}

void FramedSocket::close() { *this = FramedSocket(); }

FramedSocket::Read FramedSocket::read() {
  if (!readable_) return Read::kNothing;
  in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(taken_));
  taken_ = 0;
  const size_t had = in_.size();
  const size_t need = had >= kLengthBytes ? kLengthBytes + read16(in_, 0) : 0;
  in_.resize(std::max(had + kReadBytes, need));
  ssize_t n;
  do n = ::recv(fd_.get(), in_.data() + had, in_.size() - had, 0);
  while (n < 0 && errno == EINTR);
  in_.resize(had + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (n > 0) return Read::kSome;
  readable_ = false;
  if (n == 0) return Read::kEnd;
  return errno == EAGAIN || errno == EWOULDBLOCK ? Read::kNothing : Read::kFailed;
}

std::optional<View> FramedSocket::next() {
  const View rest = View(in_).subspan(taken_);
  if (rest.size() < kLengthBytes) return std::nullopt;
  const size_t length = read16(rest, 0);
  if (rest.size() < kLengthBytes + length) return std::nullopt;
  taken_ += kLengthBytes + length;
  return rest.subspan(kLengthBytes, length);
}

void FramedSocket::write(View message) {
  out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(std::exchange(sent_, 0)));
  out_.push_back(static_cast<uint8_t>(message.size() >> 8));
  out_.push_back(static_cast<uint8_t>(message.size()));
  out_.insert(out_.end(), message.begin(), message.end());
}

bool FramedSocket::flush() {
  while (sent_ < out_.size()) {
    const ssize_t n = ::send(fd_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN || errno == EINPROGRESS;
    sent_ += static_cast<size_t>(n);
  }
  out_.clear();
  sent_ = 0;
  return true;
}

TcpSession::TcpSession(EventLoop& loop, UniqueFd client, const SocketOptions& options, PodDns& pod, MemoryAccount& memory,
                       std::function<void(TcpSession&)> closed)
    : Claim(memory), loop_(loop), options_(options), pod_(pod), closed_(std::move(closed)), timer_(loop) {
  upstreams_ = pod_.upstreams(OriginalServer::of_tcp(client.get()));
  client_.open(std::move(client));
}

TcpSession::~TcpSession() {
  loop_.cancel_deferred(*this);
  close_client();
  close_upstream();
}

void TcpSession::start() {
  if (!loop_.watch(client_.fd(), client_side_)) return close();
  set_timer();
  step();
}

void TcpSession::Side::on_ready(uint32_t) noexcept {
  socket.note_ready();
  session.step();
}

// Goes on while something moves: each side is read only as far as the other one can take it.
void TcpSession::step() {
  int steps = 0;
  while (!done_ && (step_client() || step_upstream())) {
    if (++steps < kStepsPerTurn) continue;
    loop_.defer(*this);
    break;
  }
  if (done_) return;
  if (!client_.flush()) return close();
  if (client_ended_ && !busy()) return close();
  const bool moved = steps > 0;
  if (moved && !account().update(*this, held_bytes(), true)) close();
}

size_t TcpSession::held_bytes() const {
  size_t bytes = sizeof *this + client_.held_bytes() + upstream_.held_bytes() + waiting_.capacity() * sizeof(Waiting);
  for (const auto& each : waiting_) bytes += each.query.capacity();
  return bytes;
}

bool TcpSession::step_client() {
  if (waiting_.size() >= limits_.queries || client_.unsent() > limits_.unsent_bytes ||
      upstream_.unsent() > limits_.unsent_bytes) {
    if (!client_.flush()) close();
    return false;
  }
  if (const auto message = client_.next()) {
    serve(*message);
    if (!done_ && !client_.flush()) close();
    return !done_;
  }
  if (client_ended_) return false;
  switch (client_.read()) {
    case FramedSocket::Read::kSome: return true;
    case FramedSocket::Read::kNothing: return false;
    case FramedSocket::Read::kEnd: client_ended_ = true; return false;
    case FramedSocket::Read::kFailed: close(); return false;
  }
  return false;
}

bool TcpSession::step_upstream() {
  if (!upstream_.is_open()) return false;
  if (!upstream_.flush()) {
    lose_upstream();
    return !done_;
  }
  if (!connected_ && upstream_.unsent() == 0) {
    connected_ = true;
    set_timer();
  }
  if (client_.unsent() > limits_.unsent_bytes) {
    if (!client_.flush()) close();
    return false;
  }
  if (const auto message = upstream_.next()) {
    on_answer(*message);
    if (!client_.flush()) close();
    return !done_;
  }
  switch (upstream_.read()) {
    case FramedSocket::Read::kSome: return true;
    case FramedSocket::Read::kNothing: return false;
    case FramedSocket::Read::kEnd:
    case FramedSocket::Read::kFailed: break;
  }
  lose_upstream();
  return !done_;
}

void TcpSession::serve(View message) {
  asked_ = true;
  const Query query(message);
  Plan plan = pod_.plan(query, Transport::kTcp, scratch_);
  switch (plan.step) {
    case Plan::Step::kDrop: return;
    case Plan::Step::kAnswer: return client_.write(scratch_);
    case Plan::Step::kForward: break;
  }
  pod_.note_upstream(query, Transport::kTcp);
  waiting_.push_back(
      {.query = Bytes(message.begin(), message.end()), .fallback = std::move(plan.fallback), .since = Clock::now()});
  set_timer();
  if (upstream_.is_open()) return upstream_.write(message);
  tries_ = 0;
  connect();
}

void TcpSession::connect() {
  while (tries_ < upstreams_.size()) {
    const SocketAddress& upstream = upstreams_[tries_++];
    auto socket = upstream_socket(options_, SOCK_STREAM, upstream.ip.is_v4());
    if (!socket || !connect_to(socket->get(), upstream)) continue;
    upstream_.open(std::move(*socket));
    connected_ = false;
    if (!loop_.watch(upstream_.fd(), upstream_side_)) {
      upstream_.close();
      continue;
    }
    for (const auto& each : waiting_) upstream_.write(each.query);
    return set_timer();
  }
  fail_waiting(Forwarder::Outcome::kUnreachable);
}

void TcpSession::on_answer(View message) {
  const auto found = std::ranges::find_if(waiting_, [&](const Waiting& each) {
    return message.size() >= kHeaderBytes && read16(each.query, 0) == read16(message, 0);
  });
  set_timer();
  // Later messages of a zone transfer belong to no query any more.
  if (found == waiting_.end()) return client_.write(message);
  const Waiting asked = std::move(*found);
  waiting_.erase(found);
  asked_anew_ = false;
  pod_.finish(Query(asked.query), Transport::kTcp, asked.fallback, Forwarder::Outcome::kAnswered, message,
              Clock::now() - asked.since, scratch_);
  client_.write(scratch_);
  set_timer();
}

bool TcpSession::harmless() const {
  return std::ranges::all_of(waiting_, [](const Waiting& each) { return Query(each.query).kind() == Query::Kind::kQuestion; });
}

// It is asked again elsewhere, or anew where it only closed an idle connection; but not what may be done twice.
void TcpSession::lose_upstream() {
  const bool was_connected = connected_;
  close_upstream();
  if (waiting_.empty()) return;
  if (was_connected && !harmless()) return close();
  if (was_connected && !std::exchange(asked_anew_, true)) tries_ = 0;
  connect();
}

void TcpSession::fail_waiting(Forwarder::Outcome outcome) {
  for (auto& each : std::exchange(waiting_, {})) {
    pod_.finish(Query(each.query), Transport::kTcp, std::move(each.fallback), outcome, {}, Clock::now() - each.since, scratch_);
    client_.write(scratch_);
  }
  set_timer();
}

void TcpSession::close() {
  if (std::exchange(done_, true)) return;
  timer_.cancel();
  close_client();
  close_upstream();
  waiting_ = {};
  release();
  closed_(*this);
}

void TcpSession::close_client() {
  if (!client_.is_open()) return;
  loop_.unwatch(client_.fd(), client_side_);
  client_.close();
}

void TcpSession::close_upstream() {
  if (!upstream_.is_open()) return;
  loop_.unwatch(upstream_.fd(), upstream_side_);
  upstream_.close();
  connected_ = false;
}

void TcpSession::set_timer() {
  const bool impatient = upstream_.is_open() && (!connected_ || (tries_ < upstreams_.size() && harmless()));
  const auto limit = waiting_.empty() ? limits_.idle : impatient ? limits_.attempt : limits_.answer;
  timer_.start_after(limit, [this] { on_timer(); });
}

void TcpSession::on_timer() {
  if (waiting_.empty()) return close();
  const bool next = upstream_.is_open() && tries_ < upstreams_.size() && (!connected_ || harmless());
  const auto outcome = Forwarder::Outcome::kTimedOut;
  close_upstream();
  next ? connect() : fail_waiting(outcome);
  step();
}

}  // namespace zt::ztunnel::dns
