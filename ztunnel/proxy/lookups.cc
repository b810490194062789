#include "ztunnel/proxy/lookups.h"

namespace zt::ztunnel {

namespace {
// find_source(): no policy depends on the answer (they look at the address and at what TLS proved), so it is worth the round
// trip to a control plane that is well, once, and not a time-out (WorkerSettings::source_wait; the peer waits without limit).
constexpr std::chrono::seconds kAskAgain{60};
}  // namespace

std::shared_ptr<Lookups::Pending> Lookups::send(const std::string& key, const std::string& asker) {
  auto pending = std::make_shared<Pending>();
  request_(key, asker, ticket_.on_answer([pending](LookupAnswer answer) {
    pending->answer = answer;
    pending->done.set();
  }));
  return pending;
}

Task<LookupAnswer> Lookups::look_up(std::string key, Clock::duration limit) {
  const auto pending = send(key, asker_);
  co_await pending->done.wait(loop_, limit);
  co_return pending->answer;
}

Task<LookupAnswer> Lookups::find_source(IpAddress ip) {
  return ask(asked_sources_, network_ + "/" + ip.to_string(), source_wait_,
             [this, ip] { return state_.snapshot()->workload(network_, ip) != nullptr; });
}

Task<LookupAnswer> Lookups::find_service(std::string ns, std::string host) {
  std::string key = ns + "/" + host;
  return ask(asked_services_, std::move(key), workload_api::kLookupLimit, [this, ns = std::move(ns), host = std::move(host)] {
    return state_.snapshot()->service_by_hostname(host, ns) != nullptr;
  });
}

Task<LookupAnswer> Lookups::ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known) {
  if (known()) co_return LookupAnswer::kAnswered;
  const auto now = Clock::now();
  const auto is_old = [now](const auto& entry) { return now - entry.second.when >= kAskAgain; };
  auto asked = keys.find(key);
  if (asked == keys.end() || is_old(*asked)) {
    if (keys.size() >= kMaxAsked) std::erase_if(keys, is_old);
    if (keys.size() >= kMaxAsked) co_return LookupAnswer::kRefused;
    // Not from what the pod itself may ask for: its peers must not use that up.
    asked = keys.insert_or_assign(key, Asked{now, send(key, "peers of " + asker_)}).first;
  }
  // Those who ask for it meanwhile wait for the same answer, and no longer than the first.
  const auto [when, pending] = asked->second;
  if (const auto left = when + limit - now; left > Clock::duration::zero()) co_await pending->done.wait(loop_, left);
  if (!known()) co_return pending->answer;
  keys.erase(key);  // from here on the control plane tells us about it unasked
  co_return LookupAnswer::kAnswered;
}

}  // namespace zt::ztunnel
