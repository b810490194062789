#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/backoff.h"
#include "base/event_loop.h"
#include "base/task.h"
#include "zds/zds_session.h"

namespace zt::zds {

// Waits between connection attempts: 20 ms, doubling up to 15 s, each shortened by up to 20 % so that the
// proxies of many nodes, or two on one node, do not knock in step. Contract §8.4.
inline constexpr std::chrono::milliseconds kReconnectFirst{20};
inline constexpr std::chrono::milliseconds kReconnectMost{15'000};
inline constexpr double kReconnectSpread = 0.2;

// Keeps a ZDS connection to the node agent: connects, says hello, feeds a ZdsSession, reconnects for ever.
// Where istio/ztunnel ends the whole process on a protocol error of the agent, this refuses the request,
// reconnects and goes on serving its pods. Owned by, and only touched on, the loop's thread.
class ZdsClient final : private ZdsChannel {
 public:
  struct Options {
    std::string path{kDefaultZdsPath};        // INPOD_UDS
    std::function<void(bool)> on_ready = {};  // every change of ready()
  };

  // `loop` and `pods` outlive the client.
  ZdsClient(EventLoop& loop, PodManager& pods, Options options);
  ~ZdsClient();

  // Begins to connect. kInvalidInput: the path cannot be a socket's; an agent that is not there yet is no
  // error.
  Result<> start();
  // The process is ending: closes the connection, so that the agent waits for nothing, and drains all pods.
  // Not from within on_ready or a PodManager call.
  void shutdown();

  [[nodiscard]] bool ready() const { return session_.ready(); }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] const ZdsSession& session() const { return session_; }

 private:
  // Longest wait for room in the socket: an agent that does not read answers is broken.
  static constexpr std::chrono::seconds kSendLimit{5};

  void answer(std::string error) override;
  void drop(const std::string& why) override;
  void rearm() override;

  Task<void> run();
  Task<void> serve();
  Task<bool> send(std::string bytes);
  void handle(Result<std::optional<ZdsPacket>> received);

  EventLoop& loop_;
  PodManager& pods_;
  Options options_;
  ZdsSession session_;
  UniqueFd socket_;
  FdWaiter socket_ready_;
  Timer tick_;
  // The answer of the request being handled. It may come from deep inside the session, so the coroutine that
  // sends it is woken by a timer of its own and never runs within the session's call.
  std::optional<std::string> answer_;
  Event answered_;
  Timer wake_;
  bool dropped_ = false;
  bool connected_ = false;
  Backoff delay_;
  std::optional<TaskScope> tasks_;  // last: its coroutine uses all of the above
};

}  // namespace zt::zds
