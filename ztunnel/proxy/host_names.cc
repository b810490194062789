#include "ztunnel/proxy/host_names.h"

namespace zt::ztunnel {

namespace {
dns::HostAnswerPtr nothing(std::string why) {
  return std::make_shared<const dns::HostAnswer>(dns::HostAnswer{.addresses = {}, .error = std::move(why), .fresh_until = {}});
}
}  // namespace

Task<dns::HostAnswerPtr> HostNames::find(std::string host, Clock::duration limit) {
  if (!request_) co_return nothing("no resolver");
  if (const auto known = known_.find(host); known != known_.end()) {
    if (loop_.now() < known->second->fresh_until) co_return known->second;
    known_.erase(known);
  }
  auto pending = asked_[host];
  if (!pending) {
    pending = asked_[host] = std::make_shared<Pending>();
    request_(host, ticket_.on_answer([this, host, pending](dns::HostAnswerPtr answer) {
      asked_.erase(host);
      if (known_.size() >= kMostNames) known_.clear();
      if (answer->fresh_until > loop_.now()) known_[host] = answer;
      pending->answer = std::move(answer);
      pending->done.set();
    }));
  }
  if (!co_await pending->done.wait(loop_, limit)) co_return nothing("no answer in time");
  co_return pending->answer;
}

}  // namespace zt::ztunnel
