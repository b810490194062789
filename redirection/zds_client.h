#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/task.h"
#include "redirection/zds_session.h"

namespace zt::redirection {

// Waits between connection attempts: 20 ms, doubling up to 15 s, each shortened by up to 20 % so that the
// proxies of many nodes, or two on one node, do not knock in step. Contract §8.4.
class ReconnectDelay {
 public:
  static constexpr std::chrono::milliseconds kFirst{20};
  static constexpr std::chrono::milliseconds kMost{15000};
  explicit ReconnectDelay(uint64_t seed) : random_(seed | 1) {}
  [[nodiscard]] std::chrono::milliseconds next();
  void reset() { next_ = kFirst; }

 private:
  std::chrono::milliseconds next_ = kFirst;
  uint64_t random_;
};

// Keeps a ZDS connection to the node agent: connects, says hello, feeds a ZdsSession, reconnects for ever.
// Where istio/ztunnel ends the whole process on a protocol error of the agent, this refuses the request,
// reconnects and goes on serving its pods. Owned by, and only touched on, the loop's thread.
class ZdsClient : private ZdsChannel {
 public:
  struct Options {
    std::string path{kDefaultZdsPath};        // INPOD_UDS
    std::function<void(bool)> on_ready = {};  // every change of ready()
  };

  // `loop` and `pods` outlive the client.
  ZdsClient(EventLoop& loop, PodManager& pods, Options options);
  ~ZdsClient();

  void start();
  // The process is ending: closes the connection, so that the agent waits for nothing, and drains all pods.
  void shutdown();

  [[nodiscard]] bool ready() const { return session_.ready(); }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] const ZdsSession& session() const { return session_; }

 private:
  void answer(std::string error) override;
  void drop(const std::string& why) override;

  Task<void> run();
  Task<Result<>> connect();
  Task<void> serve();
  Task<bool> send(std::string bytes);
  void arm_tick();

  EventLoop& loop_;
  Options options_;
  ZdsSession session_;
  UniqueFd socket_;
  FdWaiter ready_fd_;
  Timer tick_;
  Event answered_;
  std::optional<std::string> answer_;
  std::optional<std::string> drop_reason_;
  bool connected_ = false;
  ReconnectDelay delay_;
  TaskScope tasks_;  // last: its coroutines use all of the above
};

}  // namespace zt::redirection
