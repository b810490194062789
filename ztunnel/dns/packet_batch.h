#pragma once
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/address.h"
#include "ztunnel/dns/message.h"

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

}  // namespace zt::ztunnel::dns
