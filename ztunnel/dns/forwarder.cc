#include "ztunnel/dns/forwarder.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace zt::ztunnel::dns {

namespace {
// Packets on one socket that are no answer, before the attempt counts as failed.
constexpr int kMostStrange = 32;
// What an exchange costs beside its query: itself, the kernel's sockets. What one who waits costs beside a copy of query and key.
constexpr size_t kExchangeBytes = 4096;
constexpr size_t kAskerBytes = 256;
// Sockets that wait for the next query: after a burst, and for as long as there has been no other one.
constexpr size_t kMostSpare = 64;
constexpr size_t kFewSpare = 4;
constexpr std::chrono::seconds kSpareTime{10};
}  // namespace

// A socket towards upstreams. Making one in another namespace costs more than all the rest of an exchange, so it is used again, from
// another port each time.
class Forwarder::Line final : private Watcher {
 public:
  Line(EventLoop& loop, UniqueFd fd, bool v4) : v4_(v4), loop_(loop), fd_(std::move(fd)) {}
  ~Line() {
    if (watched_) loop_.unwatch(fd_.get(), *this);
  }
  Line(const Line&) = delete;
  [[nodiscard]] bool start() { return watched_ = loop_.watch(fd_.get(), *this).has_value(); }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool is_v4() const { return v4_; }
  void use(Attempt* attempt) { attempt_ = attempt; }

 private:
  void on_ready(uint32_t events) noexcept override;
  const bool v4_;
  EventLoop& loop_;
  const UniqueFd fd_;
  bool watched_ = false;
  Attempt* attempt_ = nullptr;
};

// One query on its way to one upstream.
class Forwarder::Attempt {
 public:
  Attempt(Forwarder& forwarder, Exchange& exchange, std::unique_ptr<Line> line, uint16_t id)
      : forwarder_(forwarder), exchange_(exchange), line_(std::move(line)), id_(id) {
    line_->use(this);
  }
  ~Attempt() {
    line_->use(nullptr);
    if (!failed_) forwarder_.give_back(std::move(line_));
  }
  Attempt(const Attempt&) = delete;

  [[nodiscard]] bool send();
  [[nodiscard]] bool failed() const { return failed_; }
  void on_ready();

 private:
  Forwarder& forwarder_;
  Exchange& exchange_;
  std::unique_ptr<Line> line_;
  const uint16_t id_;
  bool failed_ = false;
  int strange_ = 0;
};

struct Forwarder::Exchange final : MemoryAccount::Claim {
  Exchange(Forwarder& owner, uint64_t which) : Claim(owner.memory_), forwarder(owner), number(which), timer(owner.loop_) {}
  // False: there is no memory for so many.
  [[nodiscard]] bool charge(size_t waiting) {
    const size_t each = kAskerBytes + query.size() + key.size();
    return account().update(*this, kExchangeBytes + each * (waiting + 1), false);
  }
  void revoke() noexcept override { forwarder.finish(*this, Outcome::kBusy, {}); }

  Forwarder& forwarder;
  const uint64_t number;
  Bytes query;
  std::vector<SocketAddress> upstreams;
  std::string key;
  std::vector<std::pair<Done, Clock::time_point>> askers;
  Clock::time_point deadline;
  size_t tries = 0;
  std::vector<std::unique_ptr<Attempt>> attempts;
  Bytes unwilling;  // an upstream's SERVFAIL or REFUSED: what is said if no other one knows better
  Timer timer;
};

void Forwarder::Line::on_ready(uint32_t) noexcept {
  if (attempt_ != nullptr) attempt_->on_ready();
}

bool Forwarder::Attempt::send() {
  Bytes query = exchange_.query;
  write16(query, 0, id_);
  return ::send(line_->fd(), query.data(), query.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(query.size());
}

void Forwarder::Attempt::on_ready() {
  // One thread, one turn: what is received is used before the next packet is.
  static thread_local std::array<uint8_t, kMaxMessageBytes> buffer;
  if (failed_) return;
  for (;;) {
    const ssize_t n = ::recv(line_->fd(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    // An ICMP error: nobody listens there, or there is no way to it. Or somebody guesses.
    if (n < 0 || strange_ == kMostStrange) {
      failed_ = true;
      return forwarder_.try_next(exchange_);
    }
    const View response(buffer.data(), static_cast<size_t>(n));
    if (answers(response, exchange_.query, id_)) return forwarder_.on_answer(exchange_, response);
    forwarder_.strange_.add();
    ++strange_;
  }
}

Forwarder::Forwarder(EventLoop& loop, const SocketOptions& options, const ForwardLimits& limits, MemoryAccount& memory,
                     Counter& strange)
    : loop_(loop), options_(options), limits_(limits), memory_(memory), strange_(strange), spare_timer_(loop) {}

Forwarder::~Forwarder() { const auto under_way = std::exchange(exchanges_, {}); }  // they give back their lines

bool Forwarder::ask(View query, std::vector<SocketAddress> upstreams, std::string key, Done done) {
  const auto now = Clock::now();
  if (!key.empty()) {
    if (const auto same = by_key_.find(key); same != by_key_.end()) {
      Exchange& exchange = *same->second;
      if (exchange.askers.size() < limits_.askers && exchange.charge(exchange.askers.size() + 1)) {
        exchange.askers.emplace_back(std::move(done), now);
        return true;
      }
      key.clear();
      upstreams.clear();  // nobody waits for so many: this one is told at once
    }
  }
  auto made = std::make_unique<Exchange>(*this, ++last_number_);
  Exchange& exchange = *made;
  exchanges_.emplace(exchange.number, std::move(made));
  exchange.query.assign(query.begin(), query.end());
  exchange.upstreams = std::move(upstreams);
  if (!key.empty()) by_key_.emplace(key, &exchange);
  exchange.key = std::move(key);
  exchange.askers.emplace_back(std::move(done), now);
  exchange.deadline = now + limits_.total;
  const bool busy = exchanges_.size() > limits_.exchanges || !exchange.charge(1);
  // Answers are never given from within the question.
  exchange.timer.start_after({}, [this, &exchange, busy] {
    if (busy) return finish(exchange, Outcome::kBusy, {});
    try_next(exchange);
  });
  return false;
}

std::unique_ptr<Forwarder::Line> Forwarder::take_line(const SocketAddress& upstream) {
  const bool v4 = upstream.ip.is_v4();
  std::unique_ptr<Line> line;
  if (const auto spare = std::ranges::find(spare_.rbegin(), spare_.rend(), v4, [](const auto& each) { return each->is_v4(); });
      spare != spare_.rend()) {
    line = std::move(*spare);
    spare_.erase(std::next(spare).base());
  } else {
    auto socket = upstream_socket(options_, SOCK_DGRAM, v4);
    if (!socket) return nullptr;
    line = std::make_unique<Line>(loop_, std::move(*socket), v4);
    if (!line->start()) return nullptr;
  }
  return connect_to(line->fd(), upstream) ? std::move(line) : nullptr;
}

void Forwarder::give_back(std::unique_ptr<Line> line) {
  if (spare_.size() < kMostSpare && disconnect_udp(line->fd())) spare_.push_back(std::move(line));
  if (spare_.size() <= kFewSpare || spare_timer_.armed()) return;
  spare_timer_.start_after(kSpareTime, [this] {
    if (spare_.size() > kFewSpare) spare_.erase(spare_.begin(), spare_.end() - kFewSpare);
  });
}

void Forwarder::try_next(Exchange& exchange) {
  const auto now = Clock::now();
  if (now >= exchange.deadline) {
    return exchange.unwilling.empty() ? finish(exchange, Outcome::kTimedOut, {})
                                      : finish(exchange, Outcome::kAnswered, Bytes(exchange.unwilling));
  }
  const size_t rounds = exchange.upstreams.size() * limits_.rounds;
  const size_t most = exchange.key.empty() ? std::min<size_t>(rounds, 1) : rounds;
  while (exchange.tries < most) {
    const SocketAddress upstream = exchange.upstreams[exchange.tries++ % exchange.upstreams.size()];
    auto line = take_line(upstream);
    if (!line) continue;
    auto attempt = std::make_unique<Attempt>(*this, exchange, std::move(line), static_cast<uint16_t>(random_()));
    if (!attempt->send()) continue;
    exchange.attempts.push_back(std::move(attempt));
    const bool last = exchange.tries == most;
    const auto next = last ? exchange.deadline : std::min(exchange.deadline, now + limits_.attempt);
    return exchange.timer.start(next, [this, &exchange] { try_next(exchange); });
  }
  // Some may still answer.
  if (std::ranges::any_of(exchange.attempts, [](const auto& attempt) { return !attempt->failed(); }) &&
      exchange.unwilling.empty()) {
    return exchange.timer.start(exchange.deadline, [this, &exchange] { try_next(exchange); });
  }
  if (!exchange.unwilling.empty()) return finish(exchange, Outcome::kAnswered, Bytes(exchange.unwilling));
  finish(exchange, Outcome::kUnreachable, {});
}

void Forwarder::on_answer(Exchange& exchange, View response) {
  const auto rcode = static_cast<Rcode>(read16(response, 2) & flag::kRcode);
  const bool unwilling = rcode == Rcode::kServFail || rcode == Rcode::kRefused;
  if (unwilling && exchange.tries < exchange.upstreams.size()) {
    exchange.unwilling.assign(response.begin(), response.end());
    return try_next(exchange);
  }
  finish(exchange, Outcome::kAnswered, response);
}

void Forwarder::finish(Exchange& exchange, Outcome outcome, View response) {
  if (!exchange.key.empty()) by_key_.erase(exchange.key);
  // What `done` does may end the forwarder.
  const auto node = exchanges_.extract(exchange.number);
  const Bytes kept(response.begin(), response.end());
  const auto askers = std::move(exchange.askers);
  const auto now = Clock::now();
  node.mapped()->attempts.clear();
  for (const auto& [done, since] : askers) done(outcome, kept, now - since);
}

}  // namespace zt::ztunnel::dns
