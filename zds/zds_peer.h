#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/event_loop.h"
#include "base/linux/netns.h"
#include "base/unique_fd.h"
#include "zds/zds.h"

namespace zt::zds {

// A pod as the agent wants proxies to serve it.
struct ZdsPod {
  std::string uid;
  PodName info;
  std::shared_ptr<const Netns> netns;  // nullptr: not known (yet); a proxy that has the pod is told to keep it
};
using ZdsPods = std::map<std::string, ZdsPod, std::less<>>;

class ZdsPeer;

// What one connection needs of the server.
class ZdsPeerOwner {
 public:
  [[nodiscard]] virtual const ZdsPods& pods() const = 0;
  // Whether new pods are this proxy's: only the newest gets them, the older ones are on their way out.
  [[nodiscard]] virtual bool is_newest(const ZdsPeer& peer) const = 0;
  virtual void on_hello(ZdsPeer& peer) = 0;
  virtual void on_snapshot_done(ZdsPeer& peer) = 0;
  // The proxy's answer to an add; empty = its listeners are up.
  virtual void on_answer(const std::string& uid, const std::string& error) = 0;
  // The connection is of no more use. Destroys the peer.
  virtual void on_closed(ZdsPeer& peer, const std::string& why) = 0;

 protected:
  ~ZdsPeerOwner() = default;
};

// The agent's end of one proxy's connection: hello, snapshot, then whatever is needed to keep the proxy's
// pods in step with the agent's. It works from the difference between what is wanted and what this proxy has
// acknowledged, so nothing is lost when pods change while an answer is awaited. Redirection contract §3.3.
// Loop's thread.
class ZdsPeer final : private Watcher, private Deferred {
 public:
  // For the hello, and for each request from its writing to its answer. A proxy that answers later is out of
  // step: answers are matched to requests by their order alone, so its connection is closed. (istio-cni goes
  // on and takes the late answer for the next request's.)
  static constexpr std::chrono::milliseconds kAnswerLimit{5000};
  // A refused pod is offered again; the proxy retries it too.
  static constexpr std::chrono::milliseconds kRetryInterval{5000};

  ZdsPeer(EventLoop& loop, UniqueFd socket, uint64_t id, ZdsPeerOwner& owner);
  ~ZdsPeer();
  ZdsPeer(const ZdsPeer&) = delete;

  Result<> start();
  [[nodiscard]] uint64_t id() const { return id_; }
  [[nodiscard]] bool said_hello() const { return phase_ != Phase::kHello; }
  [[nodiscard]] bool has_accepted(const std::string& uid) const;

  // The wish for this pod may have changed / for any pod may have (it became the newest).
  void mark(const std::string& uid);
  void mark_all();

 private:
  enum class Phase : uint8_t { kHello, kSnapshot, kLive };
  struct Known {
    PodName info;
    std::optional<Netns::Id> netns;  // of the last add; a keep has none
    bool accepted = false;
  };
  struct Request {
    WorkloadRequest message;
    std::shared_ptr<const Netns> netns;
    bool sent = false;
  };

  void on_ready(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;
  // Both say whether the peer still exists.
  bool read_input();
  bool write_output();
  bool on_packet(const std::string& bytes);
  void on_ack(const WorkloadAck& ack);
  [[nodiscard]] std::optional<Request> next_request();
  [[nodiscard]] std::optional<Request> request_for(const std::string& uid);
  void retry_refused();
  bool close(const std::string& why);

  EventLoop& loop_;
  UniqueFd socket_;
  uint64_t id_;
  ZdsPeerOwner& owner_;
  Phase phase_ = Phase::kHello;
  std::map<std::string, Known, std::less<>> known_;
  std::set<std::string, std::less<>> dirty_;  // pods whose wanted and known states may differ
  std::optional<Request> request_;            // being written or answered
  Timer limit_;
  Timer retry_;
};

}  // namespace zt::zds
