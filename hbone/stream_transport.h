#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/task.h"
#include "hbone/stream.h"
#include "hbone/transport.h"

namespace zt::hbone {

class Tunnel;

// A tunnel inside a stream of another tunnel (contract §2.9). Once a tunnel is attached, bytes come when the outer one delivers and go when
// it pulls: at the edges that tell the inner one, it reads and writes, so nothing is kept here. Before that, whoever shakes hands
// over it queues what it has to say and takes what has come. One thread; destroyed before the outer tunnel.
class StreamTransport final : public Transport, public StreamHandler {
 public:
  ~StreamTransport() override;
  // Over a stream whose handler this is.
  void use(Stream& stream);

  // --- Before a tunnel is attached.

  // The answer to CONNECT has come. Taken once.
  [[nodiscard]] bool answered() const { return answer_.has_value(); }
  [[nodiscard]] const Headers& answer() const { return *answer_; }
  [[nodiscard]] bool closed() const { return stream_ == nullptr; }
  void send(std::span<const uint8_t> bytes);
  // What has come since the last call. No more than kMostKept is kept; the stream's window holds the rest.
  [[nodiscard]] std::vector<uint8_t> take();
  static constexpr size_t kMostKept = 64 * 1024;
  // Waits until something has come or changed since the last wait. False: the limit passed first.
  Task<bool> changed(EventLoop& loop, Clock::duration limit);
  // Ends such a wait.
  void wake();

  // --- Hand-over, while the tunnel on it and the one around it are frozen.

  // The tunnel on it; null before there is one.
  void carry(Tunnel& tunnel) { tunnel_ = &tunnel; }
  [[nodiscard]] Tunnel* tunnel() const { return tunnel_; }
  struct State {
    std::vector<uint8_t> queued;
    bool ended = false;
  };
  [[nodiscard]] State export_state() const { return {.queued = queued_, .ended = ended_}; }
  // In a new one, before use().
  void resume(State state) {
    queued_ = std::move(state.queued);
    wanted_ = true;
    ended_ = state.ended;
  }
  // The stream goes with the tunnel around it.
  void let_go() { stream_ = nullptr; }

  Result<> attach(TransportUser& user) override;
  void detach() override { user_ = nullptr; }
  Transfer read(std::span<uint8_t> room) override;
  Transfer write(std::span<const uint8_t> bytes) override;

 private:
  void copy_in(std::span<uint8_t> room);
  void on_response(Headers headers) noexcept override;
  PullResult pull(std::span<const iovec> slots) noexcept override;
  size_t on_data(std::span<const iovec> data) noexcept override;
  void on_end_stream() noexcept override;
  void on_closed(Reason, H2Error) noexcept override;

  Stream* stream_ = nullptr;
  Tunnel* tunnel_ = nullptr;
  TransportUser* user_ = nullptr;
  std::optional<Headers> answer_;
  std::vector<uint8_t> queued_, kept_;  // before a tunnel is attached
  std::shared_ptr<Event> change_ = std::make_shared<Event>();
  std::vector<iovec> slots_;     // while pull() runs
  std::vector<iovec> incoming_;  // while on_data() runs
  std::span<uint8_t> room_;      // while read() asks for what was kept
  size_t moved_ = 0;
  size_t pulled_ = 0;
  bool wanted_ = false;  // a write was blocked
  bool ended_ = false;
};

}  // namespace zt::hbone
