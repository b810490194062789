#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "zds/zds_socket.h"

// The proxy's side of ZDS as a state machine without I/O: requests and time go in, answers and pod starts and
// stops come out. Contract §8.2-8.4. One thread (the control thread).
namespace zt::zds {

// Runs the per-pod proxies. Implemented by the proxy; called on the control thread only.
class PodManager {
 public:
  using StartDone = std::move_only_function<void(Result<>)>;

  // Binds the pod's listeners and serves it. `done` is called exactly once on the control thread, possibly
  // before start() returns: success = listeners are up (certificates and xDS data are not awaited); failure =
  // nothing of the pod is left behind, it is called pending and started again every 5 s. Never called for a
  // uid that runs or is being started.
  virtual void start(const std::string& uid, const PodName& info, std::shared_ptr<const Netns> netns, StartDone done) = 0;
  // Stops a pod that was started or is being started, and cuts its connections: the pod is gone (contract
  // §8.4, Del). The uid may be started again at once, in another namespace. A `done` still owed may be called
  // or dropped.
  virtual void stop(const std::string& uid) = 0;
  // The process is ending: all pods stop accepting and drain in parallel. No start or stop follows.
  virtual void drain_all() = 0;

 protected:
  ~PodManager() = default;
};

// What the state machine needs of the connection it is fed from.
class ZdsChannel {
 public:
  // Exactly once per request and in their order. Empty = accepted.
  virtual void answer(std::string error) = 0;
  // The peer broke the protocol (already answered): close and reconnect.
  virtual void drop(const std::string& why) = 0;
  // next_tick() may have changed.
  virtual void rearm() = 0;

 protected:
  ~ZdsChannel() = default;
};

// States as admin's workloadState shows them.
enum class PodState : uint8_t {
  kStarting,  // PodManager::start has not answered yet
  kUp,
  kPending,  // the last start failed; retried
};
struct PodStatus {
  std::string uid;
  PodName info;
  PodState state = PodState::kStarting;
  std::string error;  // of the last failed start
};

class ZdsSession {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // istio-cni waits 5 s for an ack and then takes a late one for the next request's: we answer earlier, with
  // a refusal.
  static constexpr std::chrono::milliseconds kStartLimit{4000};
  static constexpr std::chrono::milliseconds kRetryInterval{5000};
  // Pods of one node; each holds a descriptor and some sockets. Kubernetes' largest supported nodes have a
  // few hundred.
  static constexpr size_t kMaxPods = 4096;

  // Both outlive the session. `on_ready` is told of every change of ready().
  ZdsSession(PodManager& pods, ZdsChannel& channel, std::function<void(bool)> on_ready = {});
  ZdsSession(const ZdsSession&) = delete;

  // A connection is up (hello sent): its snapshot begins. Running pods go on meanwhile; so do retries.
  void connected();
  // It is gone: not ready; pods go on.
  void disconnected();

  // One request. While unanswered() the next one must wait.
  void request(const WorkloadRequest& request, UniqueFd fd, Time now);
  // A packet that could not be read or decoded: refused, then the connection is dropped.
  void bad_packet(const std::string& why);
  [[nodiscard]] bool unanswered() const { return waiting_.has_value(); }
  // This connection's snapshot has come in whole.
  [[nodiscard]] bool snapshot_received() const { return snapshot_received_; }

  // Time: call tick() at or after next_tick().
  [[nodiscard]] std::optional<Time> next_tick() const;
  void tick(Time now);

  // Readiness task "workload proxy manager": a snapshot has come on this connection and nothing was pending
  // since. A pod that fails later does not take it away, only the loss of the agent does (observed of
  // ztunnel; redirection golden data).
  [[nodiscard]] bool ready() const { return ready_; }
  [[nodiscard]] std::vector<PodStatus> pods() const;
  // Starts that failed, since the process began (metrics).
  [[nodiscard]] uint64_t failed_starts() const { return failed_starts_; }

 private:
  struct Pod {
    PodName info;
    std::shared_ptr<const Netns> netns;
    PodState state = PodState::kStarting;
    uint64_t attempt = 0;  // tells a late completion of an earlier start from the current one's
    std::string error;
    Time retry_at{};
  };
  struct Waiting {
    std::string uid;
    Time deadline;
  };

  void on_add(const AddWorkload& add, UniqueFd fd);
  void on_repeated_add(const std::string& uid, const Pod& pod);
  void on_keep(const KeepWorkload& keep);
  void on_del(const DelWorkload& del);
  void on_snapshot_sent();
  void start_and_answer(const std::string& uid);
  void start(const std::string& uid);
  void started(const std::string& uid, uint64_t attempt, Result<> result);
  void remove(const std::string& uid);
  [[nodiscard]] bool remember(const std::string& uid);
  void refuse_and_drop(const std::string& why);
  void answer(std::string error);
  void update_ready();

  PodManager& pods_manager_;
  ZdsChannel& channel_;
  std::function<void(bool)> on_ready_;
  std::map<std::string, Pod, std::less<>> pods_;
  std::set<std::string, std::less<>> snapshot_;  // named on this connection before SnapshotSent
  bool snapshot_received_ = false;
  bool connected_ = false;
  bool ready_ = false;
  std::optional<Waiting> waiting_;  // the request whose answer hangs on a start
  Time now_{};
  uint64_t attempts_ = 0;
  uint64_t failed_starts_ = 0;
  std::shared_ptr<ZdsSession*> self_;  // completions hold it weakly: they may outlive the session
};

}  // namespace zt::zds
