#include "redirection/nftables/host_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/text.h"
#include "redirection/constants.h"
#include "redirection/nftables/nft.h"
#include "redirection/nftables/nftables_rules.h"

namespace zt::redirection {

namespace {

constexpr size_t kMostComment = 64;  // nft takes 128

// The set's elements, each with its pod's uid, as the peers have it.
std::string elements(const ProbedPods& pods, bool v6) {
  std::vector<std::string> out;
  for (const auto& [address, uid] : pods) {
    if (address.is_v6() != v6) continue;
    std::string comment = uid.substr(0, kMostComment);
    std::erase_if(comment, [](char c) { return !is_alnum(c) && c != '-'; });
    out.push_back(fmt::format("{} comment \"{}\"", address.to_string(), comment));
  }
  return out.empty() ? std::string() : fmt::format(" elements = {{ {} }};", fmt::join(out, ", "));
}

}  // namespace

std::string render_host_probes(const ProbedPods& pods, const std::set<uid_t>& kubelets) {
  return fmt::format(
      "{removal}"
      "table inet {table} {{\n"
      "  set istio-inpod-probes-v4 {{ type ipv4_addr;{v4} }}\n"
      "  set istio-inpod-probes-v6 {{ type ipv6_addr;{v6} }}\n"
      "  chain postrouting {{\n"
      "    type nat hook postrouting priority 100; policy accept;\n"
      "    meta l4proto tcp meta skuid {{ {users} }} ip daddr @istio-inpod-probes-v4 counter snat ip to {probe4}\n"
      "    meta l4proto tcp meta skuid {{ {users} }} ip6 daddr @istio-inpod-probes-v6 counter snat ip6 to {probe6}\n"
      "  }}\n"
      // A pod that calls itself so would get past the policies of others.
      "  chain not-from-outside {{\n"
      "    type filter hook prerouting priority -300; policy accept;\n"
      "    iifname != \"lo\" ip saddr {probe4} counter drop\n"
      "    iifname != \"lo\" ip6 saddr {probe6} counter drop\n"
      "  }}\n"
      "}}\n",
      fmt::arg("removal", render_host_probes_removal()), fmt::arg("table", kNatTable), fmt::arg("v4", elements(pods, false)),
      fmt::arg("v6", elements(pods, true)), fmt::arg("users", fmt::join(kubelets, ", ")), fmt::arg("probe4", kProbeAddressV4),
      fmt::arg("probe6", kProbeAddressV6));
}

std::string render_host_probes_removal() { return fmt::format("add table inet {0}\ndelete table inet {0}\n", kNatTable); }

Result<> HostProbes::apply(const ProbedPods& pods, const std::set<uid_t>& kubelets) {
  applied_.reset();
  ZT_ASSIGN(applied_, in_netns_thread(*host_, [&]() -> Result<std::optional<std::string>> {
              ZT_ASSIGN(Nft nft, Nft::open());
              ZT_TRY(nft.run(render_host_probes(pods, kubelets)));
              return nft.list_table(kNatTable);
            }));
  return {};
}

Result<bool> HostProbes::holds() {
  if (!applied_) return false;
  return in_netns_thread(*host_, [&]() -> Result<bool> {
    ZT_ASSIGN(Nft nft, Nft::open());
    ZT_ASSIGN(const auto there, nft.list_table(kNatTable));
    return there == applied_;
  });
}

Result<> HostProbes::remove(const Netns& host) {
  return in_netns_thread(host, []() -> Result<> {
    ZT_ASSIGN(Nft nft, Nft::open());
    return nft.run(render_host_probes_removal());
  });
}

}  // namespace zt::redirection
