#pragma once
#include <cstdint>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "ztunnel/dns/forwarder.h"
#include "ztunnel/dns/packet_batch.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/dns/sockets.h"

namespace zt::ztunnel::dns {

// One UDP socket of a pod's DNS. Worker's thread.
class UdpListener final : private Watcher, private Deferred {
 public:
  UdpListener(EventLoop& loop, UniqueFd fd, PodDns& pod, PodCache& cache, Forwarder& forwarder, OriginalServer& original,
              PacketBatch& batch);
  ~UdpListener();
  Result<> start();
  // Answers what is in the socket's queue at this moment: closing the socket would lose it.
  void serve_waiting();
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  void on_ready(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;
  // False: nothing is left.
  bool serve_some();
  void serve(View message, const SocketAddress& client, Bytes& answer);
  void forward(const Query& query, const SocketAddress& client, std::optional<Found> fallback, Bytes& answer);

  EventLoop& loop_;
  const UniqueFd fd_;
  const SocketAddress address_;
  PodDns& pod_;
  PodCache& cache_;
  Forwarder& forwarder_;
  OriginalServer& original_;
  PacketBatch& batch_;
};

}  // namespace zt::ztunnel::dns
