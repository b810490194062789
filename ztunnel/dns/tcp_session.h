#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/memory_account.h"
#include "base/unique_fd.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/dns/sockets.h"

namespace zt::ztunnel::dns {

// A socket with what is to be written to it and what of a message has been read from it: messages with their length in front
// (RFC 1035 §4.2.2). Edge-triggered: remembers whether there may be more to read.
class FramedSocket {
 public:
  void open(UniqueFd fd);
  void close();
  [[nodiscard]] bool is_open() const { return static_cast<bool>(fd_); }
  [[nodiscard]] int fd() const { return fd_.get(); }

  void note_ready() { readable_ = true; }
  enum class Read : uint8_t { kSome, kNothing, kEnd, kFailed };
  Read read();
  // The next whole message; valid until the next read(). Nothing: it has not come yet.
  [[nodiscard]] std::optional<View> next();

  void write(View message);    // adds the length
  [[nodiscard]] bool flush();  // false: the connection is broken
  [[nodiscard]] size_t unsent() const { return out_.size() - sent_; }
  [[nodiscard]] size_t held_bytes() const { return in_.capacity() + out_.capacity(); }

 private:
  UniqueFd fd_;
  bool readable_ = false;
  Bytes in_;
  size_t taken_ = 0;  // of in_
  Bytes out_;
  size_t sent_ = 0;
};

// A client's TCP connection, and the one to an upstream that is made when a query needs it. What the mesh knows is answered; all
// else goes to the upstream and comes back as it is, ids included, so a zone transfer or an update is none of our business.
// Worker's thread; destroyed by its owner after `closed` was called.
class TcpSession final : private Deferred, private MemoryAccount::Claim {
 public:
  struct Limits {
    std::chrono::milliseconds idle{5000};      // with no query under way
    std::chrono::milliseconds attempt{2500};   // at one upstream, to connect and to answer; then the next is tried
    std::chrono::milliseconds answer{10'000};  // of the last one
    size_t queries = 32;                       // under way
    size_t unsent_bytes = 128 * 1024;          // in either direction: then nobody is read from
  };

  // `memory`: the pod's. When others need it, the connection goes.
  TcpSession(EventLoop& loop, UniqueFd client, const SocketOptions& options, PodDns& pod, MemoryAccount& memory,
             std::function<void(TcpSession&)> closed);
  ~TcpSession() override;
  TcpSession(const TcpSession&) = delete;
  void start();
  // Whether somebody waits for an answer, or has only just come and will ask: closing now would reset the connection under the query.
  [[nodiscard]] bool busy() const { return !waiting_.empty() || client_.unsent() > 0 || (!asked_ && !client_ended_); }

 private:
  struct Side final : Watcher {
    explicit Side(TcpSession& owner) : session(owner) {}
    void on_ready(uint32_t events) noexcept override;
    TcpSession& session;
    FramedSocket socket;
  };
  // A query that the upstream has not answered.
  struct Waiting {
    Bytes query;
    std::optional<Found> fallback;
    Clock::time_point since;
  };
  void on_turn_end() noexcept override { step(); }
  void revoke() noexcept override { close(); }
  void step();
  [[nodiscard]] size_t held_bytes() const;
  [[nodiscard]] bool step_client();
  [[nodiscard]] bool step_upstream();
  void serve(View message);
  void on_answer(View message);
  void connect();
  void lose_upstream();
  // Whether what waits may be asked again elsewhere.
  [[nodiscard]] bool harmless() const;
  void fail_waiting(Forwarder::Outcome outcome);
  void close();
  void close_client();
  void close_upstream();
  void set_timer();
  void on_timer();

  EventLoop& loop_;
  const SocketOptions& options_;
  PodDns& pod_;
  const std::function<void(TcpSession&)> closed_;
  const Limits limits_{};
  Side client_side_{*this}, upstream_side_{*this};
  FramedSocket& client_ = client_side_.socket;
  FramedSocket& upstream_ = upstream_side_.socket;
  std::vector<SocketAddress> upstreams_;
  size_t tries_ = 0;
  bool connected_ = false;   // the upstream has answered our SYN
  bool asked_anew_ = false;  // after the upstream had closed a connection in use
  bool asked_ = false;       // by the client, at least once
  bool client_ended_ = false;
  bool done_ = false;
  std::vector<Waiting> waiting_;
  Bytes scratch_;
  Timer timer_;
};

}  // namespace zt::ztunnel::dns
