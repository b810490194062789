#pragma once
#include <cstddef>
#include <list>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/dns/sockets.h"
#include "ztunnel/dns/tcp_session.h"
#include "ztunnel/dns/udp_listener.h"

namespace zt::ztunnel::dns {

// The DNS proxy of one pod: its sockets, what it asks upstreams, what it remembers. Made, used and destroyed on one worker's thread.
class PodServer final : private Deferred {
 public:
  // `share` outlives the server; so does `batch`, which the worker's servers use in turn.
  PodServer(WorkerShare& share, PacketBatch& batch, PodName pod, SocketOptions sockets, Listeners listeners);
  ~PodServer();
  PodServer(const PodServer&) = delete;
  Result<> start();

  // Every listening socket: another process' sockets on the same ports can be told from them.
  [[nodiscard]] std::vector<int> listening() const;
  // Takes what has come by now, and listens no more. What is being answered goes on.
  void stop_listening();
  // Queries that are being answered, and listeners.
  [[nodiscard]] size_t unfinished() const;

 private:
  class TcpListener;
  void on_turn_end() noexcept override;
  void accept(UniqueFd fd);

  WorkerShare& share_;
  const SocketOptions sockets_;
  PodDns dns_;
  PodCache cache_;
  OriginalServer original_;
  std::vector<std::unique_ptr<UdpListener>> udp_;  // kept while queries that came over them are under way
  bool stopped_ = false;
  Forwarder forwarder_;
  std::vector<std::unique_ptr<TcpListener>> tcp_;
  std::list<std::unique_ptr<TcpSession>> sessions_;
  std::vector<TcpSession*> ended_;
};

}  // namespace zt::ztunnel::dns
