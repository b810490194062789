#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "zds/zds_peer.h"

namespace zt::zds {

// The agent's ZDS socket. Holds the pods that proxies shall serve and keeps every connected proxy in step
// with them. During an upgrade two proxies are connected: the one that came last gets new pods, both learn of
// removals; if the newer one goes, the older one gets what it has missed. Redirection contract §3. Loop's
// thread.
class ZdsServer final : private Watcher, private ZdsPeerOwner {
 public:
  // Connections accepted: one every 200 ms, so that a proxy that crashes in a loop does not keep the agent
  // busy.
  static constexpr std::chrono::milliseconds kAcceptInterval{200};
  static constexpr size_t kMaxPeers = 16;

  struct Options {
    std::string path{kDefaultZdsPath};
    // A proxy answered an add (empty error: its listeners are up).
    std::function<void(const std::string& uid, const std::string& error)> on_answer = {};
    // How many proxies have said hello, at every change.
    std::function<void(size_t)> on_proxies = {};
  };

  ZdsServer(EventLoop& loop, Options options);
  ~ZdsServer();

  // Listens. Errors as listen_zds().
  Result<> start();

  // From now on every proxy is to serve the pod (new or changed). kInvalidInput: it would not fit in one
  // message.
  Result<> set_pod(ZdsPod pod);
  void remove_pod(const std::string& uid);

  [[nodiscard]] size_t proxies() const;
  // Whether the newest proxy has said that the pod's listeners are up.
  [[nodiscard]] bool is_served(const std::string& uid) const;

 private:
  void on_ready(uint32_t events) noexcept override;
  void accept_one();

  [[nodiscard]] const ZdsPods& pods() const override { return pods_; }
  [[nodiscard]] bool is_newest(const ZdsPeer& peer) const override { return newest() == &peer; }
  void on_hello(ZdsPeer& peer) override;
  void on_snapshot_done(ZdsPeer& peer) override;
  void on_answer(const std::string& uid, const std::string& error) override;
  void on_closed(ZdsPeer& peer, const std::string& why) override;

  [[nodiscard]] ZdsPeer* newest() const;
  void report_proxies();

  EventLoop& loop_;
  Options options_;
  UniqueFd listener_;
  Timer next_accept_;
  ZdsPods pods_;
  std::vector<std::unique_ptr<ZdsPeer>> peers_;  // in order of their coming
  uint64_t last_id_ = 0;
};

}  // namespace zt::zds
