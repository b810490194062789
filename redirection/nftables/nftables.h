#pragma once
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redirection/redirector.h"

namespace zt::redirection {

// Redirection by nftables in the pod's own namespace, with libnftables and netlink: no `nft`, `iptables` or
// `ip` is run.
class NftablesRedirector final : public Redirector {
 public:
  [[nodiscard]] std::string_view name() const override { return "nftables"; }
  Result<> probe() override;
  Result<> enroll(const RedirectedPod& pod) override;
  Result<> stop_capturing(const RedirectedPod& pod) override;
  Result<size_t> carried_connections(const RedirectedPod& pod) override;
  Result<> unenroll(const RedirectedPod& pod) override;
  Result<Deviations> verify(const RedirectedPod& pod) override;
  Result<Presence> presence(const RedirectedPod& pod) override;
  Result<> make_way(const RedirectedPod& pod) override;

 private:
  // Our tables as the kernel and this libnftables print them, by name; absent ones are left out.
  using Listing = std::map<std::string, std::string, std::less<>>;

  // What enroll() makes of the options, learnt once for each by doing it in an empty scratch namespace. It is
  // what verify() compares with: the way rules are printed differs between versions, and a repair must not
  // run for ever because of a blank.
  Result<const Listing*> reference(const RedirectionOptions& options);
  static Result<Listing> list();

  std::vector<std::pair<RedirectionOptions, Listing>> references_;
};

// The tables in the calling thread's namespace, as "ip nat" or "inet istio-ambient-nat". iptables' nft variant has its rules in
// such as well.
Result<std::vector<std::string>> list_nft_tables();

}  // namespace zt::redirection
