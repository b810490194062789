#include "ztunnel/proxy/handshake_admission.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "mesh/reason.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {

namespace {
// RFC 8446 §5.1: type, legacy version, length; a plaintext record holds at most 2^14 bytes.
constexpr size_t kHeaderBytes = 5;
constexpr uint8_t kHandshakeRecord = 22;
constexpr uint8_t kAlertRecord = kNothingToAsk[0];
constexpr size_t kMaxRecord = 16384;

constexpr std::chrono::seconds kPriceOfAbuse{1};
constexpr std::chrono::seconds kForgivenAbuse{4};
constexpr std::chrono::seconds kLongestShutOut{60};  // its address may be another's by then
constexpr size_t kMostAbusers = 1024;

enum class Hello : uint8_t { kIncomplete, kComplete, kGone, kNothing };

// Without reading: the bytes stay in the kernel, which holds them anyway.
Hello look_at(int fd) {
  std::array<uint8_t, kNothingToAsk.size()> header;
  ssize_t n;
  do {
    n = ::recv(fd, header.data(), header.size(), MSG_PEEK | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? Hello::kIncomplete : Hello::kGone;
  if (n == 0) return Hello::kGone;
  if (header[0] == kAlertRecord) {
    if (static_cast<size_t>(n) < header.size()) return Hello::kIncomplete;
    return header == kNothingToAsk ? Hello::kNothing : Hello::kComplete;
  }
  // What is no handshake record needs no more bytes to be refused.
  if (header[0] != kHandshakeRecord) return Hello::kComplete;
  if (static_cast<size_t>(n) < kHeaderBytes) return Hello::kIncomplete;
  const size_t length = static_cast<size_t>(header[3]) << 8 | header[4];
  if (length == 0 || length > kMaxRecord) return Hello::kComplete;
  int available = 0;
  if (ioctl(fd, FIONREAD, &available) != 0) return Hello::kGone;
  return static_cast<size_t>(available) >= kHeaderBytes + length ? Hello::kComplete : Hello::kIncomplete;
}
}  // namespace

void HandshakeCounts::Ticket::release() {
  if (auto counts = std::exchange(counts_, nullptr)) counts->leave(source_);
}

HandshakeLimit HandshakeCounts::enter(const IpAddress& source, const HandshakeLimits& limits, Ticket& ticket) {
  {
    const std::lock_guard lock(mutex_);
    const auto known = by_source_.find(source);
    if (known != by_source_.end() && known->second >= limits.per_source) return HandshakeLimit::kPerSource;
    if (const auto abuser = abusers_.find(source); abuser != abusers_.end() && abuser->second > Clock::now() + kForgivenAbuse) {
      return HandshakeLimit::kAfterAbuse;
    }
    if (count_ >= limits.per_pod) return HandshakeLimit::kPerPod;
    if (all_->fetch_add(1, std::memory_order_relaxed) >= limits.all) {
      all_->fetch_sub(1, std::memory_order_relaxed);
      return HandshakeLimit::kAll;
    }
    ++count_;
    ++by_source_[source];
  }
  ticket.release();
  ticket.counts_ = shared_from_this();
  ticket.source_ = source;
  return HandshakeLimit::kNone;
}

void HandshakeCounts::note_abuse(const IpAddress& source, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (abusers_.size() >= kMostAbusers && !abusers_.contains(source)) {
    std::erase_if(abusers_, [now](const auto& each) { return each.second <= now; });
    if (abusers_.size() >= kMostAbusers) return;
  }
  auto& paid = abusers_[source];
  paid = std::min(std::max(paid, now) + kPriceOfAbuse, now + kForgivenAbuse + kLongestShutOut);
}

void HandshakeCounts::leave(const IpAddress& source) {
  const std::lock_guard lock(mutex_);
  all_->fetch_sub(1, std::memory_order_relaxed);
  --count_;
  const auto known = by_source_.find(source);
  if (--known->second == 0) by_source_.erase(known);
}

size_t HandshakeCounts::in_flight() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

HandshakeAdmission::~HandshakeAdmission() = default;

const char* HandshakeAdmission::limit_name(HandshakeLimit limit) {
  switch (limit) {
    case HandshakeLimit::kPerSource: return "handshakes_per_source";
    case HandshakeLimit::kPerPod: return "handshakes_per_pod";
    case HandshakeLimit::kAll: return "handshakes";
    case HandshakeLimit::kAfterAbuse: return "handshakes_after_abuse";
    case HandshakeLimit::kNone: break;
  }
  return "";
}

void HandshakeAdmission::Pending::on_ready(uint32_t events) noexcept { pod.look(*this, events); }

// All have the same time, so the oldest is the next whose time is up: one timer does for all.
void HandshakeAdmission::watch_deadlines() {
  if (timer_.armed() || by_age_.empty()) return;
  timer_.start(by_age_.front().deadline, [this] {
    const auto now = Clock::now();
    while (!by_age_.empty() && by_age_.front().deadline <= now) {
      Pending& oldest = by_age_.front();
      oldest.pod.fail(oldest, {Reason::kTlsTimeout, "tls handshake timed out"});
      if (loop_.overdue()) break;  // those that came together end together: not in one turn
    }
    watch_deadlines();
  });
}

PodHandshakes::~PodHandshakes() {
  while (!drop_some()) {
  }
}

bool PodHandshakes::drop_some() {
  constexpr size_t kAtOnce = 64;
  for (size_t left = kAtOnce; left > 0 && !by_pod_.empty(); --left) leave(by_pod_.front());
  return by_pod_.empty();
}

HandshakeLimit PodHandshakes::admit(UniqueFd fd, SocketAddress client) {
  admission_.thread_.check();
  HandshakeCounts::Ticket ticket;
  HandshakeLimit reached = HandshakeLimit::kNone;
  while (true) {
    const HandshakeLimit limit = counts_->enter(client.ip, admission_.limits_, ticket);
    if (limit == HandshakeLimit::kNone) break;
    reached = limit;
    admission_.evicted_.get({HandshakeAdmission::limit_name(limit)}).add();
    if (evict(limit, client.ip)) continue;
    // Those in flight are past their hello, or it is its own fault: the new one has to wait its turn, outside.
    failed_(fd.get(), client,
            {Reason::kHandshakeLimit, std::string("too many handshakes: ") + HandshakeAdmission::limit_name(limit)});
    reset_and_close(std::move(fd));
    return reached;
  }
  auto pending = std::make_unique<Pending>(*this);
  pending->fd = std::move(fd);
  pending->client = client;
  pending->deadline = Clock::now() + admission_.limits_.timeout;
  pending->ticket = std::move(ticket);
  if (auto watched = admission_.loop_.watch(pending->fd.get(), *pending); !watched) {
    failed_(pending->fd.get(), client, watched.error());
    return reached;
  }
  Pending& waits = *pending.release();
  admission_.by_age_.push_back(waits);
  by_pod_.push_back(waits);
  by_source_[client.ip].push_back(waits);
  ++waiting_;
  ++admission_.waiting_;
  admission_.watch_deadlines();
  return reached;
}

bool PodHandshakes::evict(HandshakeLimit limit, const IpAddress& source) {
  Pending* oldest = nullptr;
  switch (limit) {
    case HandshakeLimit::kPerSource:
      if (const auto known = by_source_.find(source); known != by_source_.end()) oldest = &known->second.front();
      break;
    case HandshakeLimit::kPerPod:
      if (!by_pod_.empty()) oldest = &by_pod_.front();
      break;
    case HandshakeLimit::kAll:
      if (!admission_.by_age_.empty()) oldest = &admission_.by_age_.front();
      break;
    case HandshakeLimit::kAfterAbuse:
    case HandshakeLimit::kNone: break;
  }
  if (oldest == nullptr) return false;
  oldest->pod.fail(*oldest,
                   {Reason::kHandshakeLimit, std::string("silent while others came: ") + HandshakeAdmission::limit_name(limit)});
  return true;
}

void PodHandshakes::look(Pending& pending, uint32_t events) {
  switch (look_at(pending.fd.get())) {
    case Hello::kIncomplete:
      // Who has closed its side half way will never say the rest.
      if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) fail(pending, {Reason::kTlsFailed, "tls handshake eof"});
      return;
    case Hello::kGone: return fail(pending, {Reason::kTlsFailed, "tls handshake eof"});
    case Hello::kNothing: return leave(pending);
    case Hello::kComplete: break;
  }
  const SocketAddress client = pending.client;
  UniqueFd fd;
  HandshakeCounts::Ticket ticket;
  forget(pending, fd, ticket);
  ready_(std::move(fd), client, std::move(ticket));
}

void PodHandshakes::leave(Pending& pending) {
  UniqueFd fd;
  HandshakeCounts::Ticket ticket;
  forget(pending, fd, ticket);
}

void PodHandshakes::fail(Pending& pending, const Error& why) {
  const SocketAddress client = pending.client;
  UniqueFd fd;
  HandshakeCounts::Ticket ticket;
  forget(pending, fd, ticket);
  failed_(fd.get(), client, why);
}

void PodHandshakes::forget(Pending& pending, UniqueFd& fd, HandshakeCounts::Ticket& ticket) {
  admission_.thread_.check();
  admission_.loop_.unwatch(pending.fd.get(), pending);
  fd = std::move(pending.fd);
  ticket = std::move(pending.ticket);
  const auto source = by_source_.find(pending.client.ip);
  const std::unique_ptr<Pending> freed(&pending);
  static_cast<HandshakeAdmission::Hook<HandshakeAdmission::BySource>&>(pending).unlink();
  if (source->second.empty()) by_source_.erase(source);
  --waiting_;
  --admission_.waiting_;
}

}  // namespace zt::ztunnel
