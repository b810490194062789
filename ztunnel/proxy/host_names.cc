#include "ztunnel/proxy/host_names.h"

#include <algorithm>

namespace zt::ztunnel {

namespace {
dns::HostAnswerPtr nothing(std::string why) {
  return std::make_shared<const dns::HostAnswer>(dns::HostAnswer{.addresses = {}, .error = std::move(why), .fresh_until = {}});
}
}  // namespace

void HostNames::Names::keep(const std::string& host, dns::HostAnswerPtr answer) {
  // The one that would have to be asked for first makes room.
  if (known.size() >= kMostNames)
    known.erase(std::ranges::min_element(known, {}, [](const auto& each) { return each.second->fresh_until; }));
  known[host] = std::move(answer);
}

Task<dns::HostAnswerPtr> HostNames::find(std::string host, Clock::duration limit, dns::NamedBy by) {
  if (!request_) co_return nothing("no resolver");
  Names& names = by == dns::NamedBy::kMesh ? mesh_ : programs_;
  if (const auto found = names.known.find(host); found != names.known.end()) {
    if (loop_.now() < found->second->fresh_until) co_return found->second;
    names.known.erase(found);
  }
  auto pending = names.asked[host];
  if (!pending) {
    pending = names.asked[host] = std::make_shared<Pending>();
    request_(host, by, ticket_.on_answer([this, host, &names, pending](dns::HostAnswerPtr answer) {
      names.asked.erase(host);
      if (answer->fresh_until > loop_.now()) names.keep(host, answer);
      pending->answer = std::move(answer);
      pending->done.set();
    }));
  }
  if (!co_await pending->done.wait(loop_, limit)) co_return nothing("no answer in time");
  co_return pending->answer;
}

}  // namespace zt::ztunnel
