#pragma once
#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/event_loop.h"
#include "workload_api/model/model.h"
#include "workload_api/store/balancer.h"

namespace zt::ztunnel {

// Endpoints that keep failing, as one worker has seen it: they are passed over for growing times while there are others. Whoever
// chooses takes one of them all the same if there is no other (Balancer::choose), so never all of a service's endpoints are set
// aside. One worker's thread; each worker learns for itself, which takes no lock and kFailures connections.
class SetAside {
 public:
  static constexpr uint32_t kFailures = 3;  // one after the other, for the first time
  static constexpr std::chrono::seconds kFirst{2}, kLongest{300};
  static constexpr size_t kMostEntries = 4096;  // beyond that who fails is not remembered

  // A connection to it could not be made. How long it is set aside from now on; nothing: it is not, or is already. One that was set
  // aside and fails again when its time is up is so at once, and for twice as long.
  std::optional<Clock::duration> failed(const workload_api::Workload& endpoint, Clock::time_point now);
  // A connection was made. True: it had been set aside.
  bool worked(const workload_api::Workload& endpoint);

  // Nothing is remembered of anybody: nobody needs to be asked about.
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] bool contains(const workload_api::Workload& endpoint, Clock::time_point now) const;

 private:
  struct Entry {
    uint32_t failures = 0;  // one after the other
    uint32_t times = 0;     // that it was set aside
    Clock::time_point until, last_failure;
  };
  void forget_old(Clock::time_point now);

  std::unordered_map<workload_api::Str, Entry, workload_api::StrHash, workload_api::StrEqual> entries_;  // by uid
};

}  // namespace zt::ztunnel
