#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/address.h"
#include "base/task.h"
#include "ztunnel/proxy/state_view.h"

namespace zt::ztunnel {

// Asks the control plane for what it does not send unasked (XDS_ON_DEMAND). Thread-safe; `done` comes on the control
// thread within XdsClient's limit, after the snapshot with the answer has been published. Null: nothing is on demand.
using LookupRequest = std::function<void(std::string key, std::function<void()> done)>;

// What one worker asks the control plane for. Worker's thread.
class Lookups {
 public:
  // `network` is ours; `source_wait` the longest wait of find_source().
  Lookups(EventLoop& loop, const StateView& state, std::string network, Clock::duration source_wait, LookupRequest request)
      : loop_(loop), state_(state), network_(std::move(network)), source_wait_(source_wait), request_(std::move(request)) {}

  [[nodiscard]] bool on_demand() const { return request_ != nullptr; }

  // From here on only where on_demand().
  // Waits until the control plane has said what it knows of `key`, or `limit` has passed; what it said is in the view's
  // snapshot then.
  Task<void> look_up(std::string key, Clock::duration limit);
  // For what peers name. Whoever may send makes us ask, and each key costs the control plane a subscription: what it does not
  // know it is not asked again for a minute, and only so many of each kind are asked for.
  // find_source(): waits for a moment until the control plane has said who has this address, if nobody knows. For the
  // source of a connection that has come, which is named in metrics and logs by what the snapshot says then.
  Task<void> find_source(IpAddress ip);
  // The service of this name, if nobody knows it, as seen from namespace `ns`.
  Task<void> find_service(std::string ns, std::string host);
  static constexpr size_t kMaxAsked = 256;

 private:
  struct Asked {
    Clock::time_point when;
    std::shared_ptr<Event> answered;
  };
  using AskedKeys = std::unordered_map<std::string, Asked>;
  Task<void> ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known);

  EventLoop& loop_;
  const StateView& state_;
  const std::string network_;
  const Clock::duration source_wait_;
  const LookupRequest request_;
  AskedKeys asked_sources_, asked_services_;
};

}  // namespace zt::ztunnel
