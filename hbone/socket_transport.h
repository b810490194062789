#pragma once
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "hbone/transport.h"

namespace zt::hbone {

// A connected, non-blocking TCP socket.
class SocketTransport final : public Transport, private Watcher {
 public:
  SocketTransport(EventLoop& loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}
  ~SocketTransport() override;

  Result<> attach(TransportUser& user) override;
  void detach() override;
  Transfer read(std::span<uint8_t> room) override;
  Transfer write(std::span<const uint8_t> bytes) override;
  [[nodiscard]] int socket() const override { return fd_.get(); }

 private:
  void on_ready(uint32_t events) noexcept override;

  EventLoop& loop_;
  UniqueFd fd_;
  TransportUser* user_ = nullptr;
};

}  // namespace zt::hbone
