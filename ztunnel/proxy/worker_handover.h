#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "handover/protocol.h"
#include "ztunnel/proxy/pod_worker.h"
#include "ztunnel/proxy/worker.h"

namespace zt::ztunnel {

using PodWorkers = std::unordered_map<std::string, std::unique_ptr<PodWorker>>;

// What became of a hand-over so far.
struct HandOverCounts {
  size_t connections = 0;                             // that went along
  size_t units = 0;                                   // tunnels and pairs that did
  size_t refused = 0;                                 // units that the other process did not take, tries counted one by one
  size_t left = 0;                                    // connections that are still here
  Clock::duration longest_stop{};                     // of a unit: from when it was frozen until it was the other's
  std::map<std::string, size_t, std::less<>> causes;  // what held units at the last try
  std::string refusal;                                // what the other process said of one that it refused
  std::string end;                                    // why it is over, unless that is because it is done

  HandOverCounts& operator+=(const HandOverCounts& more);
};

// Gives all that the pods of one worker have to another process, unit by unit; what cannot be moved is tried again until `limit`. Worker's
// thread; owned by it. The pods outlive it.
class WorkerLeaving final : private handover::UnitSource {
 public:
  // `taking`: whether this worker is being given something itself, which then goes on to the next. `over`: nothing more can be given. May
  // destroy this.
  WorkerLeaving(Worker& worker, PodWorkers& pods, UniqueFd socket, handover::Hello hello, Clock::duration limit,
                std::function<bool()> taking, std::function<void(const HandOverCounts&)> over);
  Result<> start() { return leaving_.start(); }
  [[nodiscard]] HandOverCounts counts() const;

 private:
  std::optional<Frozen> next() noexcept override;
  void gone() noexcept override;
  void stays(const Error& why) noexcept override;
  void begin_pass();
  // Whether another pass could move more.
  [[nodiscard]] bool again() const;

  Worker& worker_;
  PodWorkers& pods_;
  const Clock::time_point until_;
  std::unordered_set<std::string> served_;  // by the other process
  HandOverCounts counts_;
  std::vector<std::string> waiting_;  // pods of this pass that have not been looked through
  size_t passes_ = 0;
  size_t held_back_ = 0;            // connections that were given since memory was
  std::string giving_;              // the pod whose unit is on its way
  Clock::time_point frozen_since_;  // that unit
  Timer pass_timer_;
  std::function<bool()> taking_;
  std::function<void(const HandOverCounts&)> over_;
  handover::Leaving leaving_;  // last: it speaks to us until it is gone
};

// Takes over what another process gives on one connection, for the pods of one worker.
class WorkerArriving final : private handover::UnitSink {
 public:
  // `over`: nothing more comes; how many units have. May destroy this.
  WorkerArriving(Worker& worker, PodWorkers& pods, UniqueFd socket, handover::Hello hello,
                 std::function<void(size_t units, const Error& why)> over);
  Result<> start() { return arriving_.start(); }

 private:
  Result<> prepare(handover::Unit unit, std::vector<UniqueFd> descriptors) noexcept override;
  void run() noexcept override;
  void drop() noexcept override;
  [[nodiscard]] PodWorker* pod();

  Worker& worker_;
  PodWorkers& pods_;
  std::string coming_;  // the prepared unit's pod
  size_t units_ = 0;
  handover::Arriving arriving_;
};

}  // namespace zt::ztunnel
