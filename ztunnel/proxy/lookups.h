#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/address.h"
#include "base/task.h"
#include "base/ticket.h"
#include "workload_api/xds/on_demand.h"
#include "ztunnel/proxy/state_view.h"

namespace zt::ztunnel {

using workload_api::LookupAnswer;

// Asks the control plane for what it does not send unasked (XDS_ON_DEMAND), on behalf of `asker` (a pod's uid). Thread-safe; `done`
// comes on the control thread within workload_api::kLookupLimit, after the snapshot with the answer has been published. Null:
// nothing is on demand.
using LookupRequest = std::function<void(std::string key, std::string asker, workload_api::LookupDone done)>;

// What one pod asks the control plane for, on one worker. Worker's thread.
class Lookups {
 public:
  // `network` is ours; `source_wait` the longest wait of find_source().
  Lookups(EventLoop& loop, const StateView& state, std::string asker, std::string network, Clock::duration source_wait,
          const LookupRequest& request)
      : loop_(loop),
        state_(state),
        asker_(std::move(asker)),
        network_(std::move(network)),
        source_wait_(source_wait),
        request_(request),
        ticket_(loop) {}

  [[nodiscard]] bool on_demand() const { return request_ != nullptr; }

  // From here on only where on_demand().
  // Waits until the control plane has said what it knows of `key`. kAnswered: it is in the view's snapshot now, or nobody knows
  // it. Else nothing may be concluded: kTimedOut after `limit`, kRefused if the pod has asked for too much.
  Task<LookupAnswer> look_up(std::string key, Clock::duration limit);
  // For what peers name. Whoever may send makes us ask, and each key costs the control plane a subscription: what it does not
  // know it is not asked again for a minute, and only so many of each kind are asked for.
  // find_source(): waits for a moment until the control plane has said who has this address, if nobody knows. For the
  // source of a connection that has come, which is named in metrics and logs by what the snapshot says then.
  Task<LookupAnswer> find_source(IpAddress ip);
  // The service of this name, if nobody knows it, as seen from namespace `ns`.
  Task<LookupAnswer> find_service(std::string ns, std::string host);
  static constexpr size_t kMaxAsked = 256;

 private:
  struct Pending {
    Event done;
    LookupAnswer answer = LookupAnswer::kTimedOut;
  };
  struct Asked {
    Clock::time_point when;
    std::shared_ptr<Pending> pending;
  };
  using AskedKeys = std::unordered_map<std::string, Asked>;
  std::shared_ptr<Pending> send(const std::string& key, const std::string& asker);
  Task<LookupAnswer> ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known);

  EventLoop& loop_;
  const StateView& state_;
  const std::string asker_;
  const std::string network_;
  const Clock::duration source_wait_;
  const LookupRequest& request_;
  AskedKeys asked_sources_, asked_services_;
  Ticket ticket_;
};

}  // namespace zt::ztunnel
