#pragma once
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <memory>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "ztunnel/dns/forwarder.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/dns/sockets.h"

namespace zt::ztunnel::dns {

// Room for the packets of one turn: received together, answered together. One a worker.
class PacketBatch {
 public:
  static constexpr size_t kPackets = 32;
  static constexpr size_t kMaxQueryBytes = 4096;  // over UDP; a longer one belongs on TCP

  PacketBatch();
  PacketBatch(const PacketBatch&) = delete;
  // How many packets came; 0: none are left.
  size_t receive(int fd);
  // What did not fit is empty.
  [[nodiscard]] View packet(size_t index) const;
  [[nodiscard]] SocketAddress sender(size_t index) const { return SocketAddress::from_sockaddr(from_[index]); }
  // Where the answer to a packet is to be written; sent by send_answers() if it is not empty.
  [[nodiscard]] Bytes& answer(size_t index) { return answers_[index]; }
  void send_answers(int fd, size_t count);

 private:
  std::array<std::array<uint8_t, kMaxQueryBytes>, kPackets> data_;
  std::array<sockaddr_storage, kPackets> from_;
  std::array<iovec, kPackets> in_;
  std::array<mmsghdr, kPackets> headers_;
  std::array<Bytes, kPackets> answers_;
};

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
