#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/task.h"
#include "base/unique_fd.h"
#include "base/walk_list.h"
#include "hbone/stream.h"
#include "hbone/tls/verified_peers.h"
#include "hbone/worker_io.h"
#include "mesh/reason.h"

namespace zt::handover {
struct PairUnit;
struct StreamRelayState;
}  // namespace zt::handover

namespace zt::ztunnel {

struct Connection;
struct RequestOnItsWay;

// Bytes as the peers count them: `sent` is client → server, on both sides of a tunnel.
struct RelayBytes {
  uint64_t client_to_server = 0;
  uint64_t server_to_client = 0;
};

// How a relay ended. kOk, kDownstreamReset and kUpstreamReset are ends that the application chose; the rest are failures.
struct RelayEnd {
  Reason reason = Reason::kOk;
  std::string text;
};

// Moves bytes both ways between the sockets or stream of one connection until both directions have ended. The rules are
// the same for every pair: the end of one direction is passed on as FIN or END_STREAM while the other goes on, a reset is
// passed on as RST or RST_STREAM(CONNECT_ERROR), no byte is lost on partial writes, nothing is buffered beyond what a
// lent buffer or the stream's window holds, and there is no idle time-out. One worker's thread.
class Relay {
 public:
  // Called once, at the end of the turn in which the relay ended; may destroy it.
  using Done = std::move_only_function<void(Relay&)>;

  virtual ~Relay() = default;
  // Ends both directions at once: the application sees a reset.
  virtual void kill(Reason reason, std::string text) = 0;

  // --- Hand-over to another process (relay_handover.cc). A movable relay is frozen: no byte moves and no end is passed on; what it is asked for waits. Then it
  // thaws, or it is discarded: the sockets are closed here without a word, since they are the other process's too, and `done` is not
  // called.
  [[nodiscard]] virtual bool movable() const = 0;
  virtual void thaw() = 0;
  virtual void discard() = 0;

  Connection* connection = nullptr;  // that it is the relay of, once bytes may move

  [[nodiscard]] virtual const RelayBytes& bytes() const { return bytes_; }
  // When the server's first byte came; zero: none, or another process saw it.
  [[nodiscard]] Clock::time_point first_byte() const { return first_byte_; }
  // How long receivers took nothing of what was there for them, all together.
  [[nodiscard]] std::chrono::milliseconds stalled() const { return stalled_; }
  // kOk before it has ended.
  [[nodiscard]] RelayEnd end() const { return end_ ? *end_ : RelayEnd{}; }

 protected:
  using Millis = std::chrono::duration<uint32_t, std::milli>;
  Relay() = default;
  void begin_stall() {
    if (stalled_since_ == Clock::time_point{}) stalled_since_ = Clock::now();
  }
  void end_stall() {
    if (stalled_since_ == Clock::time_point{}) return;
    stalled_ += std::chrono::duration_cast<Millis>(Clock::now() - std::exchange(stalled_since_, Clock::time_point{}));
  }
  RelayBytes bytes_;
  Clock::time_point first_byte_, stalled_since_;
  Millis stalled_{0};
  std::unique_ptr<RelayEnd> end_;  // what ten thousand connections carry for their last moment would be more than a pointer
};

// A TCP socket and a tunnel's stream. The socket is the application's: the client's on the outbound side, the server's
// on the inbound side.
class StreamRelay final : public Relay, public hbone::StreamHandler, private Watcher, private Deferred {
 public:
  enum class Side : uint8_t { kSocketIsClient, kSocketIsServer };

  explicit StreamRelay(hbone::WorkerIo& io, Side side) : io_(io), side_(side) {}
  ~StreamRelay() override;

  // Before start(): the relay is its stream's handler and takes nothing yet. The answer to CONNECT, when it comes:
  [[nodiscard]] Event& answered() { return answered_; }
  [[nodiscard]] const hbone::Headers* answer() const { return answer_.get(); }
  // There is no answer because the peer has not dealt with the request: it refused the stream, left, or the tunnel broke. Nothing
  // of the application's has been sent, so the request may be made again (RFC 9113 §8.7).
  [[nodiscard]] bool unprocessed() const { return unprocessed_; }
  void attach(hbone::Stream& stream) { stream_ = &stream; }
  [[nodiscard]] hbone::Stream* stream() const { return stream_; }
  // Lets go of the stream without a word: whoever answered it with an error has ended it.
  void detach() { stream_ = nullptr; }

  // Bytes move from here on. On failure (out of descriptors) nothing has moved.
  Result<> start(UniqueFd socket, Done done);
  void kill(Reason reason, std::string text) override;

  RequestOnItsWay* request = nullptr;  // that it waits for

  // Together with its stream's tunnel.
  [[nodiscard]] bool movable() const override { return started_ && !finished_ && stream_ != nullptr; }
  [[nodiscard]] handover::StreamRelayState freeze();
  void thaw() override;
  void discard() override;
  // Instead of start(), in a relay that has its stream: as another process froze it, frozen.
  void resume(const handover::StreamRelayState& state, const RelayBytes& bytes, UniqueFd socket, Done done);
  [[nodiscard]] int socket() const { return socket_.get(); }

 private:
  // StreamHandler
  void on_response(hbone::Headers headers) noexcept override;
  hbone::PullResult pull(std::span<const iovec> slots) noexcept override;
  size_t on_data(std::span<const iovec> data) noexcept override;
  void on_end_stream() noexcept override;
  void on_closed(Reason reason, hbone::H2Error code) noexcept override;
  // Watcher, Deferred
  void on_ready(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;

  // What is offered to a receiver that has stopped, and is more than one may keep: the kernel gets it.
  bool leave_to_kernel(size_t rest);
  void go_on();
  void socket_reset();
  void finish(Reason reason, std::string text = {});
  uint64_t& from_socket() { return side_ == Side::kSocketIsClient ? bytes_.client_to_server : bytes_.server_to_client; }
  uint64_t& to_socket() { return side_ == Side::kSocketIsClient ? bytes_.server_to_client : bytes_.client_to_server; }

  hbone::WorkerIo& io_;
  UniqueFd socket_;
  hbone::Stream* stream_ = nullptr;
  Done done_;
  Event answered_;
  std::unique_ptr<const hbone::Headers> answer_;
  Side side_;
  bool started_ : 1 = false;
  bool finished_ : 1 = false;
  bool source_ended_ : 1 = false;    // FIN from the socket was pulled
  bool socket_hung_up_ : 1 = false;  // FIN or error is known to be in the socket's queue
  bool sink_blocked_ : 1 = false;
  bool sink_ended_ : 1 = false;  // END_STREAM was passed on as FIN
  bool early_end_ : 1 = false;   // END_STREAM before start()
  bool unprocessed_ : 1 = false;
  bool source_proven_ : 1 = false;  // has given enough for an unlimited receive buffer
  bool sink_proven_ : 1 = false;    // has taken enough for a larger send buffer
  bool sink_stopped_ = false;       // the kernel holds what it was promised
  bool frozen_ = false;
};

class SpliceRelay;
struct LocalRequest;

// Of a pair of pods on this node: the connection at the server's side, whose bytes the relay of the client's side moves. Either ends
// the other, as over a tunnel. In Inbound's list as long as it exists.
class Shadow final : public Relay, public WalkList<Shadow>::Element, private Deferred {
 public:
  Shadow(hbone::WorkerIo& io, hbone::PeerChain client, hbone::PeerChain server)
      : io_(io), client_chain_(std::move(client)), server_chain_(std::move(server)) {}
  ~Shadow() override;

  Result<> start(Done done) {
    done_ = std::move(done);
    return {};
  }
  // Until there is a relay; if the request goes first, the connection ends.
  void wait_in(LocalRequest& request);
  void follow(SpliceRelay& front);
  // The client's side is reset.
  void kill(Reason reason, std::string text) override;
  // The client's side ends so, and this one is reset.
  void cut_client(Reason reason, std::string text);

  // It goes with the client's relay, which freezes and thaws it, and discards it: then it is out of its table, and destroyed.
  [[nodiscard]] bool movable() const override { return front_ != nullptr && !end_; }
  void freeze() { frozen_ = true; }
  void thaw() override;
  void discard() override;
  [[nodiscard]] const RelayBytes& bytes() const override;
  [[nodiscard]] const hbone::PeerChain& client_chain() const { return client_chain_; }
  [[nodiscard]] const hbone::PeerChain& server_chain() const { return server_chain_; }

 private:
  friend class SpliceRelay;
  void front_ended(const RelayEnd& how, const RelayBytes& bytes);
  void fall();
  void on_turn_end() noexcept override;

  hbone::WorkerIo& io_;
  const hbone::PeerChain client_chain_, server_chain_;
  SpliceRelay* front_ = nullptr;
  LocalRequest* request_ = nullptr;
  Done done_;
  bool frozen_ = false;
};

// Two TCP sockets, by splice: bytes stay in the kernel and are counted all the same.
class SpliceRelay final : public Relay, private Deferred {
 public:
  // `memory`: what is in its pipes is charged there.
  SpliceRelay(hbone::WorkerIo& io, std::shared_ptr<MemoryAccount> memory)
      : io_(io), client_(*this, 0), server_(*this, 1), memory_(std::move(memory)), in_pipes_(*this, *memory_) {}
  ~SpliceRelay() override;

  Result<> start(UniqueFd client, UniqueFd server, Done done);
  void kill(Reason reason, std::string text) override;

  [[nodiscard]] bool movable() const override {
    return !finished_ && client_.fd && server_.fd && (shadow_ == nullptr || shadow_->movable());
  }
  // Fills in the flows, and appends the descriptors that the unit has; they stay the relay's.
  void freeze(handover::PairUnit& unit, std::vector<int>& descriptors);
  void thaw() override;
  void discard() override;
  // The server's side of a pair of pods on this node: its connection ends with this one, and this one with it.
  void set_shadow(Shadow& shadow) { shadow_ = &shadow; }
  void forget_shadow() { shadow_ = nullptr; }
  [[nodiscard]] Shadow* shadow() const { return shadow_; }
  void lose_shadow() {
    shadow_ = nullptr;
    kill(Reason::kUpstreamReset, {});
  }
  // Instead of start(): as another process froze it, frozen. `descriptors` are the unit's.
  void resume(const handover::PairUnit& unit, std::vector<UniqueFd> descriptors, Done done);

 private:
  struct Leg final : Watcher {
    Leg(SpliceRelay& relay, int leg_index) : owner(relay), index(leg_index) {}
    void on_ready(uint32_t events) noexcept override { owner.leg_ready(index, events); }
    SpliceRelay& owner;
    int index;
    UniqueFd fd;
    bool readable = true;
    bool writable = true;
    bool hung_up = false;
  };
  // One direction's pipe while bytes are in it.
  struct Flow {
    UniqueFd read_end, write_end;
    size_t in_pipe = 0;
    bool source_ended = false;
    bool sink_ended = false;
  };

  // What the kernel holds for a sink that does not take it.
  struct InPipes final : MemoryAccount::Claim {
    InPipes(SpliceRelay& relay, MemoryAccount& account) : Claim(account), owner(relay) {}
    void revoke() noexcept override {
      release();
      owner.kill(Reason::kResourceLimit, "the memory is needed for others");
    }
    using Claim::release;
    SpliceRelay& owner;
  };

  void charge();
  void leg_ready(int index, uint32_t events);
  bool pump(int from);
  void on_turn_end() noexcept override;
  void finish(Reason reason, std::string text = {});
  Leg& leg(int index) { return index == 0 ? client_ : server_; }
  uint64_t& moved_from(int from) { return from == 0 ? bytes_.client_to_server : bytes_.server_to_client; }

  hbone::WorkerIo& io_;
  Leg client_, server_;
  Flow flows_[2];  // [0] client → server
  std::shared_ptr<MemoryAccount> memory_;
  InPipes in_pipes_;
  uint64_t moved_ = 0;  // when it was last charged
  Shadow* shadow_ = nullptr;
  Done done_;
  bool finished_ = false;
  bool frozen_ = false;
};

}  // namespace zt::ztunnel
