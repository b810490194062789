#pragma once
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "base/acceptor.h"
#include "base/event_loop.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/dns/sockets.h"
#include "ztunnel/dns/tcp_session.h"
#include "ztunnel/dns/udp_listener.h"

namespace zt::ztunnel::dns {

// The DNS proxy of one pod: its sockets, what it asks upstreams, what it remembers. Made, used and destroyed on one worker's thread.
class PodServer final : private Deferred {
 public:
  // `share` outlives the server.
  PodServer(WorkerShare& share, PodName pod, SocketOptions sockets, Listeners listeners);
  ~PodServer();
  PodServer(const PodServer&) = delete;
  Result<> start();

  // Leaves new queries to another proxy on the same ports: `step_back` is called with each listening socket. A moment later no more
  // connections are accepted. Packets that come nevertheless are answered to the end: there may be no other proxy.
  void drain(const std::function<void(int fd)>& step_back);
  // Queries that are being answered, and whether connections are accepted.
  [[nodiscard]] size_t unfinished() const;

 private:
  void on_turn_end() noexcept override;
  void stop_listening();
  void accept(UniqueFd fd);

  WorkerShare& share_;
  const SocketOptions sockets_;
  MemoryAccount memory_;  // what the pod's clients and their name servers make us hold
  PodDns dns_;
  PodCache cache_;
  OriginalServer original_;
  std::vector<std::unique_ptr<UdpListener>> udp_;  // kept while queries that came over them are under way
  bool draining_ = false, stopped_ = false;
  bool somebody_came_ = false;  // over TCP, since the last look
  int lingers_ = 0;
  Forwarder forwarder_;
  std::vector<std::unique_ptr<Acceptor>> tcp_;
  std::list<std::unique_ptr<TcpSession>> sessions_;
  std::vector<TcpSession*> ended_;
  Timer linger_;
};

}  // namespace zt::ztunnel::dns
