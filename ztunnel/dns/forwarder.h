#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "base/event_loop.h"
#include "base/memory_account.h"
#include "base/unique_fd.h"
#include "ztunnel/dns/message.h"
#include "ztunnel/dns/sockets.h"
#include "ztunnel/telemetry/metrics_families.h"

namespace zt::ztunnel::dns {

// How long upstreams are waited for. A client's resolver waits for five seconds, as a rule.
struct ForwardLimits {
  std::chrono::milliseconds attempt{1000};  // then the next upstream is tried as well; an earlier one may still answer
  std::chrono::milliseconds total{4500};
  uint32_t rounds = 2;     // over all upstreams
  size_t exchanges = 256;  // under way at a time
  size_t askers = 256;     // of one exchange
};

// Asks upstreams over UDP on behalf of one pod, byte for byte what the client asked, but for the id. One thread.
//
// Each attempt has a port of its own, so an answer has to guess a port and an id that only we and the upstream know, and to
// repeat the question. Who asks what is already being asked waits for that answer.
class Forwarder {
 public:
  enum class Outcome : uint8_t {
    kAnswered,
    kTimedOut,     // no upstream answered in time
    kUnreachable,  // every upstream refused, or there is none
    kBusy,         // one of the limits, or others needed the memory
  };
  // `response`: of the upstream, with its id; empty unless answered. Called once, and not after the forwarder is gone.
  using Done = std::function<void(Outcome outcome, View response, Clock::duration took)>;

  // `options`, `limits`, `memory` (the pod's) and `strange` outlive the forwarder. `strange` counts packets that came to one of our
  // sockets and were no answer to what it had asked.
  Forwarder(EventLoop& loop, const SocketOptions& options, const ForwardLimits& limits, MemoryAccount& memory, Counter& strange);
  ~Forwarder();
  Forwarder(const Forwarder&) = delete;

  // Asks the first upstream, then the others. Not before it returns, `done` is called; true if it shares another's exchange.
  // `key`: equal for queries with equal answers; empty: shares with nobody and is sent once only, because what it asks for may
  // not be done twice.
  bool ask(View query, std::vector<SocketAddress> upstreams, std::string key, Done done);

  [[nodiscard]] size_t exchanges() const { return exchanges_.size(); }

 private:
  class Line;
  class Attempt;
  struct Exchange;
  std::unique_ptr<Line> take_line(const SocketAddress& upstream);
  void give_back(std::unique_ptr<Line> line);
  void try_next(Exchange& exchange);
  void finish(Exchange& exchange, Outcome outcome, View response);
  void on_answer(Exchange& exchange, View response);

  EventLoop& loop_;
  const SocketOptions& options_;
  const ForwardLimits& limits_;
  MemoryAccount& memory_;
  Counter& strange_;
  std::random_device random_;
  std::vector<std::unique_ptr<Line>> spare_;  // the one used last at the back
  Timer spare_timer_;
  std::unordered_map<uint64_t, std::unique_ptr<Exchange>> exchanges_;
  std::unordered_map<std::string, Exchange*> by_key_;
  uint64_t last_number_ = 0;
};

}  // namespace zt::ztunnel::dns
