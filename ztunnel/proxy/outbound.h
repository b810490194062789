#pragma once
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/task.h"
#include "base/unique_fd.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/proxy/arrival.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/dialler.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/local_pod.h"

namespace zt::ztunnel {

// The endpoint, or the way to it, failed, and not we: another one may do better.
[[nodiscard]] bool worth_another(Reason reason);

// What a pod opens (contract §3), on one worker: each connection is routed and then goes as it is or through a tunnel.
// Worker's thread.
class Outbound {
 public:
  Outbound(LocalPod& pod, ConnectionTable& connections, Dialler& dialler);
  Outbound(const Outbound&) = delete;

  // Takes a connection for life. `destination` is where the application wants to go: whoever captured the connection knows.
  void open(Arrival arrival, SocketAddress destination) { tasks_.spawn(run(std::move(arrival), destination)); }
  // One that another process has asked for: waits for the answer, and goes on as if it had been asked for here.
  // `socks`: it is a SOCKS5 client's, which waits to be told.
  void go_on(Connection& connection, UniqueFd fd, hbone::TunnelKey key, std::unique_ptr<StreamRelay> relay, bool socks) {
    tasks_.spawn(run_on(connection, std::move(fd), std::move(key), std::move(relay), socks));
  }
  // Takes a connection of a SOCKS5 client, which says itself where to (outbound_socks.cc).
  void open_socks(Arrival arrival) { tasks_.spawn(run_socks(std::move(arrival))); }
  // Drops those that are on their way.
  void stop() { tasks_.cancel(); }
  // Connections that are on their way yet.
  [[nodiscard]] size_t unfinished() const { return tasks_.size(); }

 private:
  Task<void> run(Arrival arrival, SocketAddress destination);
  Task<void> run_socks(Arrival arrival);
  // The application's end of a connection that goes nowhere yet.
  struct Waiting {
    UniqueFd fd;
    OpenSocket open;
    std::string_view good_news = {};  // what the application is told before the first byte
  };
  // Takes it where it wants to go. With `limit`, within so long. The error is said and counted already, and `waiting` is as it was.
  Task<std::optional<Error>> reach(Waiting& waiting, SocketAddress client, SocketAddress destination,
                                   std::optional<Clock::duration> limit = std::nullopt);
  // What a relay takes.
  static UniqueFd taken(Waiting& waiting);
  // Tells a SOCKS5 client so, and sees to it that it can read that.
  Task<void> refuse_socks(Waiting& waiting, std::string_view answer);
  // What a name stands for; empty: the error has been said.
  Task<std::vector<IpAddress>> socks_addresses(const SocketAddress& client, std::string name);
  // Why there is no connection. Nothing of the application's has been sent then, and `waiting` is as it was.
  struct Unreached {
    Error why;
    bool elsewhere = false;  // another endpoint may do better
    bool stranger = false;   // the peer says that what was asked for is none of its business (400)
  };
  using Attempt = std::optional<Unreached>;  // nothing: bytes move
  // An attempt is a connection of its own in metrics and log. Waits for the way no longer than `limit`.
  Task<Attempt> plain(Waiting& waiting, ConnectionInfo info, Plain to, Clock::duration limit);
  Task<Attempt> tunnel(Waiting& waiting, ConnectionInfo info, Hbone via, Clock::duration limit);
  // To another network: in a tunnel inside a stream to its gateway (contract §2.9).
  Task<Attempt> double_tunnel(Waiting& waiting, ConnectionInfo info, DoubleHbone via, Clock::duration limit);
  Task<Attempt> connect(Waiting& waiting, ConnectionInfo info, hbone::TunnelKey key, hbone::Headers headers,
                        Clock::duration limit);
  // Sends the CONNECT, unless `relay` waits for its answer already, and gives the connection its relay.
  Task<Attempt> ask(Waiting& waiting, Connection& connection, hbone::TunnelKey key, hbone::Headers headers,
                    std::unique_ptr<StreamRelay> relay, Clock::duration limit);
  Task<void> run_on(Connection& connection, UniqueFd fd, hbone::TunnelKey key, std::unique_ptr<StreamRelay> relay, bool socks);
  // To one of the addresses that the name stands for; each is an attempt.
  Task<Attempt> by_name(Waiting& waiting, ConnectionInfo info, NeedsResolution pending, Clock::duration limit);
  // To a pod of this node that is reached without a tunnel; null: it is none.
  [[nodiscard]] std::shared_ptr<LocalPeers::Entry> local_peer(const Hbone& via);
  Task<Attempt> to_local(Waiting& waiting, ConnectionInfo info, Hbone via, std::shared_ptr<LocalPeers::Entry> peer,
                         Clock::duration limit);
  // Whether a tunnel could be made: packets get there. Asked again after a moment, all who ask meanwhile at once.
  struct Knock {
    Event done;
    Result<> result;
    Clock::time_point until;
  };
  Task<Result<>> knock(SocketAddress door, Clock::duration limit);
  Task<void> part(UniqueFd fd);
  Task<Result<LocalProof>> prove(const ConnectionInfo& info, const Hbone& via, const LocalPeers::Entry& peer);
  // What became of an attempt at this endpoint counts for those who choose next.
  void judge(const SocketAddress& client, const Destination& to, const Attempt& attempt);
  // The service has others to go to.
  [[nodiscard]] bool has_others(const Destination& to) const;
  // On demand: the route once the control plane was asked for what it needs, each key once, all within one limit.
  Task<Route> route_on_demand(const OutboundRequest& request);

  LocalPod& pod_;
  Worker& worker_;
  ConnectionTable& connections_;
  Dialler& dialler_;
  uint64_t name_turns_ = 0;
  size_t names_asked_ = 0;  // for SOCKS5 clients, at present
  std::unordered_map<IpAddress, std::shared_ptr<Knock>> knocks_;
  TaskScope tasks_;  // last: coroutines end before what they use
};

}  // namespace zt::ztunnel
