#include "ztunnel/dns/packet_batch.h"

#include <cerrno>

namespace zt::ztunnel::dns {

PacketBatch::PacketBatch() {
  for (size_t i = 0; i < kPackets; ++i) in_[i] = {.iov_base = data_[i].data(), .iov_len = data_[i].size()};
}

size_t PacketBatch::receive(int fd) {
  for (size_t i = 0; i < kPackets; ++i) {
    headers_[i] = {};
    headers_[i].msg_hdr = {.msg_name = &from_[i],
                           .msg_namelen = sizeof from_[i],
                           .msg_iov = &in_[i],
                           .msg_iovlen = 1,
                           .msg_control = nullptr,
                           .msg_controllen = 0,
                           .msg_flags = 0};
    answers_[i].clear();
  }
  for (;;) {
    const int n = ::recvmmsg(fd, headers_.data(), kPackets, MSG_DONTWAIT, nullptr);
    if (n < 0 && errno == EINTR) continue;
    return n < 0 ? 0 : static_cast<size_t>(n);
  }
}

View PacketBatch::packet(size_t index) const {
  const bool cut = (headers_[index].msg_hdr.msg_flags & MSG_TRUNC) != 0;
  return View(data_[index]).first(cut ? 0 : headers_[index].msg_len);
}

void PacketBatch::send_answers(int fd, size_t count) {
  std::array<iovec, kPackets> out;
  std::array<mmsghdr, kPackets> headers{};
  unsigned ready = 0;
  for (size_t i = 0; i < count; ++i) {
    if (answers_[i].empty()) continue;
    out[ready] = {.iov_base = answers_[i].data(), .iov_len = answers_[i].size()};
    auto& header = headers[ready].msg_hdr;
    header.msg_name = &from_[i];
    header.msg_namelen = headers_[i].msg_hdr.msg_namelen;
    header.msg_iov = &out[ready];
    header.msg_iovlen = 1;
    ++ready;
  }
  // One that cannot be sent (its client is gone, the queue is full) does not keep back the others; clients ask again.
  for (unsigned sent = 0; sent < ready;) {
    const int n = ::sendmmsg(fd, headers.data() + sent, ready - sent, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    sent += n > 0 ? static_cast<unsigned>(n) : 1;
  }
}

}  // namespace zt::ztunnel::dns
