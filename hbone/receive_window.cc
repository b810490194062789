#include "hbone/receive_window.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>

namespace zt::hbone {

namespace {
// A window worth growing to keeps this much on top of the path's bandwidth-delay product: a sender's whole batch.
constexpr uint32_t kWindowFloorBytes = 1024 * 1024;
constexpr auto kRttInterval = std::chrono::seconds(1);
// The part of its window that a stream must use in one go. Many streams that share a tunnel get 64 KiB a turn each: were more
// asked for, the first to have a larger window would be the last, and keep several times the others' share.
constexpr uint32_t kUsedAtOnce = 32;
// How many windows a sink must have taken before the window doubles. A node-local path is through them in a millisecond.
constexpr uint32_t kProofOnShortPath = 8;
constexpr uint32_t kProofOnLongPath = 2;
}  // namespace

std::chrono::microseconds PathRtt::get(int fd, Clock::time_point now) {
  if (now - measured_ > kRttInterval || rtt_.count() == 0) {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0) {
      rtt_ = std::chrono::microseconds(std::min(info.tcpi_rtt, info.tcpi_rcv_rtt != 0 ? info.tcpi_rcv_rtt : info.tcpi_rtt));
    }
    measured_ = now;
  }
  return rtt_;
}

// A sink that takes everything at once, from a sender that uses much of the window in one go, is worth a larger window: twice
// what the path holds at this rate, and at least a sender's batch. It never grows for a sink that lags, nor for one that has
// taken no more than its socket's buffers hold: a receiver that never reads looks fast until they are full. And a receiver that
// was fast once and lags now, while memory is short, is not promised all again that it takes: growing promises more at once,
// shrinking takes effect as the peer uses what it was promised.
uint32_t ReceiveWindow::wanted(const Taken& taken, const WindowBounds& bounds, PathRtt& path, int fd, Clock::time_point now) {
  if (taken.lags) return taken.tight ? bounds.initial : bytes_;
  if (taken.ended) return bytes_;
  taken_ += static_cast<uint32_t>(std::min<size_t>(taken.bytes, UINT32_MAX - taken_));
  if (bytes_ >= bounds.max || taken.bytes < bytes_ / kUsedAtOnce || taken.tight) return bytes_;
  // One window per round trip is the rate; within a millisecond the floor is more than any node-local path needs.
  const bool long_path = path.get(fd, now) > std::chrono::milliseconds(1);
  if (taken_ / bytes_ < (long_path ? kProofOnLongPath : kProofOnShortPath)) return bytes_;
  const uint64_t doubled = uint64_t{bytes_} * 2;
  const auto target =
      static_cast<uint32_t>(std::min<uint64_t>(bounds.max, long_path ? doubled : std::min<uint64_t>(doubled, kWindowFloorBytes)));
  return std::max(target, bytes_);
}

}  // namespace zt::hbone
