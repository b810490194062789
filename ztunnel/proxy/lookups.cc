#include "ztunnel/proxy/lookups.h"

#include "workload_api/xds/on_demand.h"

namespace zt::ztunnel {

namespace {
// find_source(): no policy depends on the answer (they look at the address and at what TLS proved), so it is worth the round
// trip to a control plane that is well, once, and not a time-out (WorkerSettings::source_wait; the peer waits without limit).
constexpr std::chrono::seconds kAskAgain{60};
}  // namespace

Task<void> Lookups::look_up(std::string key, Clock::duration limit) {
  const auto answered = std::make_shared<Event>();
  request_(std::move(key), [this, answered] { loop_.post([answered] { answered->set(); }); });
  co_await answered->wait(loop_, limit);
}

Task<void> Lookups::find_source(IpAddress ip) {
  return ask(asked_sources_, network_ + "/" + ip.to_string(), source_wait_,
             [this, ip] { return state_.snapshot()->workload(network_, ip) != nullptr; });
}

Task<void> Lookups::find_service(std::string ns, std::string host) {
  std::string key = ns + "/" + host;
  return ask(asked_services_, std::move(key), workload_api::kLookupLimit, [this, ns = std::move(ns), host = std::move(host)] {
    return state_.snapshot()->service_by_hostname(host, ns) != nullptr;
  });
}

Task<void> Lookups::ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known) {
  if (known()) co_return;
  const auto now = Clock::now();
  const auto is_old = [now](const auto& entry) { return now - entry.second.when >= kAskAgain; };
  auto asked = keys.find(key);
  if (asked == keys.end() || is_old(*asked)) {
    if (keys.size() >= kMaxAsked) std::erase_if(keys, is_old);
    if (keys.size() >= kMaxAsked) co_return;
    asked = keys.insert_or_assign(key, Asked{now, std::make_shared<Event>()}).first;
    request_(key, [this, answered = asked->second.answered] { loop_.post([answered] { answered->set(); }); });
  }
  // Those who ask for it meanwhile wait for the same answer, and no longer than the first.
  const auto [when, answered] = asked->second;
  if (const auto left = when + limit - now; left > Clock::duration::zero()) co_await answered->wait(loop_, left);
  // From here on the control plane tells us about it unasked.
  if (known()) keys.erase(key);
}

}  // namespace zt::ztunnel
