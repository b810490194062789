#pragma once
#include <array>
#include <atomic>
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/address.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/thread_checker.h"
#include "base/unique_fd.h"
#include "ztunnel/telemetry/metrics_families.h"

// Who may begin a handshake on 15008. Anybody who reaches a pod may connect there, before any certificate: so a connection costs its
// socket and a few hundred bytes, no coroutine, no OpenSSL object and no buffer, until the first record of its ClientHello is
// complete; and only so many are in flight at one time, of one source address, for one pod, and in all. When there are too many,
// the one that has been silent for the longest goes: of the same source, the same pod, or any.
namespace zt::ztunnel {

// Who has nothing to ask says so in an alert, close_notify (RFC 8446 §6.1), and is let go without a word.
inline constexpr std::array<uint8_t, 7> kNothingToAsk{21, 3, 3, 0, 2, 1, 0};

struct HandshakeLimits {
  size_t per_source = 256;  // and pod
  size_t per_pod = 1024;
  size_t all = 4096;
  Clock::duration timeout = std::chrono::seconds(10);  // to the first record
};

// Which limit is reached.
enum class HandshakeLimit : uint8_t { kNone, kPerSource, kPerPod, kAll, kAfterAbuse };

// Handshakes of one pod that are in flight, on whichever worker, from accept() to their end. Any thread: a lock for each
// handshake is nothing beside the millisecond that it takes.
class HandshakeCounts : public std::enable_shared_from_this<HandshakeCounts> {
 public:
  // One handshake; counted as long as it exists.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept : counts_(std::move(other.counts_)), source_(other.source_) {}
    Ticket& operator=(Ticket&& other) noexcept {
      if (this != &other) {
        release();
        counts_ = std::move(other.counts_);
        source_ = other.source_;
      }
      return *this;
    }
    ~Ticket() { release(); }
    void release();

   private:
    friend class HandshakeCounts;
    std::shared_ptr<HandshakeCounts> counts_;
    IpAddress source_;
  };

  // `all`: of all pods; shared by them.
  explicit HandshakeCounts(std::shared_ptr<std::atomic<size_t>> all) : all_(std::move(all)) {}
  // Gives a ticket, or says which limit stands against it.
  HandshakeLimit enter(const IpAddress& source, const HandshakeLimits& limits, Ticket& ticket);
  // A tunnel from there was ended because its peer flooded it or broke HTTP/2. Some are forgiven; who goes on is let in once a
  // second, since each new tunnel costs a handshake. It is known of 1,024 sources at one time.
  void note_abuse(const IpAddress& source, Clock::time_point now);
  [[nodiscard]] size_t in_flight() const;

 private:
  void leave(const IpAddress& source);
  const std::shared_ptr<std::atomic<size_t>> all_;
  mutable std::mutex mutex_;
  size_t count_ = 0;                                 // guarded by mutex_
  std::unordered_map<IpAddress, size_t> by_source_;  // guarded by mutex_; without zeros
  // When the abuses of a source will have been paid for, at one a second; guarded by mutex_.
  std::unordered_map<IpAddress, Clock::time_point> abusers_;
};

class PodHandshakes;

// The connections of one worker's listeners that have not said hello. Worker's thread.
class HandshakeAdmission {
 public:
  // `evicted`: by limit, see limit_name().
  HandshakeAdmission(EventLoop& loop, const HandshakeLimits& limits, CounterFamily& evicted)
      : loop_(loop), limits_(limits), evicted_(evicted), timer_(loop) {}
  ~HandshakeAdmission();
  HandshakeAdmission(const HandshakeAdmission&) = delete;

  [[nodiscard]] size_t waiting() const { return waiting_; }
  // As in the metric: handshakes_per_source, handshakes_per_pod, handshakes, handshakes_after_abuse.
  [[nodiscard]] static const char* limit_name(HandshakeLimit limit);

 private:
  friend class PodHandshakes;
  struct Pending;
  using AutoUnlink = boost::intrusive::link_mode<boost::intrusive::auto_unlink>;
  template <class Tag>
  using Hook = boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>, AutoUnlink>;
  struct ByAge;
  struct ByPod;
  struct BySource;
  template <class Tag>
  using List =
      boost::intrusive::list<Pending, boost::intrusive::base_hook<Hook<Tag>>, boost::intrusive::constant_time_size<false>>;

  struct Pending final : Hook<ByAge>, Hook<ByPod>, Hook<BySource>, Watcher {
    explicit Pending(PodHandshakes& pod_of) : pod(pod_of) {}
    void on_ready(uint32_t events) noexcept override;
    PodHandshakes& pod;
    UniqueFd fd;
    SocketAddress client;
    Clock::time_point deadline;
    HandshakeCounts::Ticket ticket;
  };
  // What one that is waiting costs besides its socket.
  static_assert(sizeof(Pending) <= 176);

  void watch_deadlines();

  [[no_unique_address]] ThreadChecker thread_;
  EventLoop& loop_;
  const HandshakeLimits& limits_;
  CounterFamily& evicted_;
  List<ByAge> by_age_;
  size_t waiting_ = 0;
  Timer timer_;
};

// One pod's, on the worker that accepts for it. Worker's thread.
class PodHandshakes {
 public:
  // One whose first record is complete (or is none of TLS: the handshake will say so). `ticket` lives as long as its handshake.
  using Ready = std::function<void(UniqueFd fd, SocketAddress client, HandshakeCounts::Ticket ticket)>;
  // One that ended before: Reason kTlsTimeout, kTlsFailed or kHandshakeLimit. Its socket is closed after the call.
  using Failed = std::function<void(int fd, SocketAddress client, const Error& why)>;

  PodHandshakes(HandshakeAdmission& admission, std::shared_ptr<HandshakeCounts> counts, Ready ready, Failed failed)
      : admission_(admission), counts_(std::move(counts)), ready_(std::move(ready)), failed_(std::move(failed)) {}
  ~PodHandshakes();
  PodHandshakes(const PodHandshakes&) = delete;

  // The limit because of which another one had to go for it, or it had to go itself; kNone: there was room.
  HandshakeLimit admit(UniqueFd fd, SocketAddress client);
  // Drops some of those that wait, without a word. True when none is left.
  bool drop_some();
  [[nodiscard]] size_t waiting() const { return waiting_; }

 private:
  friend class HandshakeAdmission;
  using Pending = HandshakeAdmission::Pending;
  // Makes room by ending the oldest silent one that counts against the same limit. False: there is none on this worker.
  bool evict(HandshakeLimit limit, const IpAddress& source);
  void look(Pending& pending, uint32_t events);
  void leave(Pending& pending);
  void fail(Pending& pending, const Error& why);
  // Takes it off all lists and frees it; its socket and ticket are the caller's.
  void forget(Pending& pending, UniqueFd& fd, HandshakeCounts::Ticket& ticket);

  HandshakeAdmission& admission_;
  const std::shared_ptr<HandshakeCounts> counts_;
  const Ready ready_;
  const Failed failed_;
  HandshakeAdmission::List<HandshakeAdmission::ByPod> by_pod_;
  std::unordered_map<IpAddress, HandshakeAdmission::List<HandshakeAdmission::BySource>> by_source_;
  size_t waiting_ = 0;
};

}  // namespace zt::ztunnel
