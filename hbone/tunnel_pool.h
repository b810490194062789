#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "base/task.h"
#include "base/walk_list.h"
#include "hbone/tunnel.h"
#include "identity/spiffe_id.h"

namespace zt::hbone {

// What must be equal for two connections to share a tunnel (contract §2.8): never across pods (a pool belongs to one pod),
// identities, destinations or source addresses.
struct TunnelKey {
  identity::SpiffeId source;
  std::vector<identity::SpiffeId> expected;  // in order: one of these the server must be
  SocketAddress destination;
  IpAddress source_ip;
  std::string authority{};  // of a tunnel inside a gateway's: what the gateway was asked for. Empty: over TCP

  // What else is known of the destination; says nothing about who may share.
  std::string workload{};  // its uid; for whoever decides when a tunnel is of no use any more
  // The server deals with each tunnel on one of its threads and is for many (a waypoint, a gateway): a tunnel with
  // `spread_streams` streams gets a neighbour.
  bool spread = false;
  struct Gateway;
  std::shared_ptr<const Gateway> gateway{};  // inside whose tunnel it is; null: over TCP

  friend bool operator==(const TunnelKey& a, const TunnelKey& b) {
    return a.source == b.source && a.expected == b.expected && a.destination == b.destination && a.source_ip == b.source_ip &&
           a.authority == b.authority;
  }
};
struct TunnelKey::Gateway {
  TunnelKey tunnel;
  Headers connect;  // the request on it that the inner tunnel begins with
};
struct TunnelKeyHash {
  size_t operator()(const TunnelKey& key) const noexcept;
};

struct TunnelPoolConfig {
  size_t max_streams_per_tunnel = 100;                // POOL_MAX_STREAMS_PER_CONNECTION
  size_t max_tunnels_per_key = 4;                     // beyond that streams share, up to the peer's limit
  size_t spread_streams = 16;                         // see TunnelKey::spread
  std::chrono::milliseconds idle_release{300'000};    // POOL_UNUSED_RELEASE_TIMEOUT
  std::chrono::milliseconds acquire_timeout{20'000};  // connect + handshake, for one waiter
};

// A fresh tunnel in the client role: TCP connect, handshake, start. Supplied by the proxy, which knows network namespaces and
// certificates. `owner` is the pool.
using Dial = std::function<Task<Result<std::unique_ptr<Tunnel>>>(const TunnelKey& key, TunnelOwner& owner)>;

// Client tunnels of one pod on one worker. No lock: everything happens on that worker's thread. One dial is in flight per
// key and waiters of other keys never wait for it. A tunnel closes when it has been unused for idle_release, when the
// peer sends GOAWAY, or when retire() says that its destination is gone.
class TunnelPool final : private TunnelOwner {
 public:
  // `ended`: told of each tunnel that ends.
  using Ended = std::function<void(const TunnelKey& key, const Error& why)>;
  TunnelPool(EventLoop& loop, const TunnelPoolConfig& config, Dial dial, Ended ended = {});
  ~TunnelPool();

  // Sends CONNECT on a pooled tunnel, dialling if need be. The stream's answer comes to handler.on_response(). Waits no longer than
  // `limit`, if that is less than acquire_timeout; a dial goes on for those who come later.
  Task<Result<Stream*>> open(const TunnelKey& key, const Headers& headers, StreamHandler& handler,
                             Clock::duration limit = Clock::duration::max());

  // These go through the tunnels in pieces: `anew` begins with those that are there; true when none is left.
  // Closes idle tunnels and drains busy ones whose key matches.
  bool retire_some(bool anew, const std::function<bool(const TunnelKey&)>& gone);
  // Closes the tunnels that `condition` names, and their streams with them.
  bool close_some_if(bool anew, const std::function<bool(const Tunnel&)>& condition, Reason reason);
  static constexpr size_t kPiece = 32;

  // --- Hand-over to another process, and from one. All that are there, in pieces as above.
  bool prepare_some_handover(bool anew);
  struct Held {
    const TunnelKey& key;
    Tunnel& tunnel;
    std::chrono::milliseconds idle;  // how long it has been unused
  };
  // One after the other; nothing: that was all.
  void begin_leaving() { leaving_.begin(all_); }
  [[nodiscard]] std::optional<Held> next_leaving();
  // Nothing: it is none of ours.
  [[nodiscard]] std::optional<Held> find(Tunnel& tunnel);
  // One that has been discarded. Who needs its key dials anew.
  void forget(Tunnel& tunnel);
  // What a tunnel is resumed with that comes to us; it is in the pool from adopt() on, and thawed after it.
  [[nodiscard]] TunnelOwner& owner() { return *this; }
  void adopt(const TunnelKey& key, std::unique_ptr<Tunnel> tunnel, std::chrono::milliseconds idle);

  [[nodiscard]] size_t tunnels() const { return owned_.size(); }
  [[nodiscard]] size_t dials() const { return dials_; }  // since start

 private:
  using OfKey = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  struct Pooled final : WalkList<Pooled>::Element, OfKey {
    Pooled(EventLoop& loop, const TunnelKey& of) : key(of), idle(loop) {}
    const TunnelKey& key;  // its entry's
    std::unique_ptr<Tunnel> tunnel;
    Timer idle;
    Clock::time_point unused_since;  // while `idle` runs
  };
  struct Entry {
    boost::intrusive::list<Pooled, boost::intrusive::base_hook<OfKey>, boost::intrusive::constant_time_size<false>> tunnels;
    // The dial in flight, and how the last one ended. Waiters hold it: the entry may go while they wake up.
    struct Attempt {
      Event done;
      std::optional<Error> error;
    };
    std::shared_ptr<Attempt> attempt;
  };

  Task<void> dial(TunnelKey key, std::shared_ptr<Entry::Attempt> attempt);
  [[nodiscard]] Pooled* pick(const TunnelKey& key, Entry& entry);
  Pooled& enter(const TunnelKey& key, std::unique_ptr<Tunnel> tunnel);
  void watch_idle(Pooled& pooled, Clock::duration idle = {});
  [[nodiscard]] Held held(Pooled& pooled) const;

  void on_request(Stream& stream, Headers headers) noexcept override;
  void on_streams_changed(Tunnel& tunnel) noexcept override;
  void on_tunnel_closed(Tunnel& tunnel, const Error& why) noexcept override;

  EventLoop& loop_;
  const TunnelPoolConfig& config_;
  Dial dial_;
  Ended ended_;
  std::unordered_map<TunnelKey, Entry, TunnelKeyHash> entries_;
  WalkList<Pooled> all_;
  WalkList<Pooled>::Walk retired_, looked_at_, prepared_, leaving_;
  std::unordered_map<const Tunnel*, std::unique_ptr<Pooled>> owned_;
  size_t dials_ = 0;
  TaskScope tasks_;  // last: dials end before what they use
};

}  // namespace zt::hbone
