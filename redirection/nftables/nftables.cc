#include "redirection/nftables/nftables.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "mesh/reason.h"
#include "redirection/nftables/nft.h"
#include "redirection/nftables/nftables_rules.h"
#include "redirection/nftables/policy_routes.h"

namespace zt::redirection {

namespace {

Result<> apply_rules(const RedirectionOptions& options) {
  ZT_ASSIGN(Nft nft, Nft::open());
  return nft.run(render_pod_rules(options));
}

// The lines of a table's text, with the chain that each is in.
std::vector<std::string> keyed(std::string_view text) {
  std::vector<std::string> out;
  std::string_view chain;
  for (const auto line : nft_lines(text)) {
    if (line.starts_with("table ")) continue;
    if (line.starts_with("chain ")) chain = line.substr(6, line.find(' ', 6) - 6);
    out.push_back(line.starts_with("chain ") ? fmt::format("chain {}", chain) : fmt::format("{}: {}", chain, line));
  }
  return out;
}

}  // namespace

Result<NftablesRedirector::Listing> NftablesRedirector::list() {
  ZT_ASSIGN(Nft nft, Nft::open());
  Listing listing;
  for (const auto table : kAllTables) {
    ZT_ASSIGN(auto text, nft.list_table(table));
    if (text) listing.emplace(table, std::move(*text));
  }
  return listing;
}

Result<const NftablesRedirector::Listing*> NftablesRedirector::reference(const RedirectionOptions& options) {
  const auto known =
      std::find_if(references_.begin(), references_.end(), [&](const auto& reference) { return reference.first == options; });
  if (known != references_.end()) return &known->second;
  ZT_ASSIGN(const Netns scratch, make_scratch_netns());
  ZT_ASSIGN(Listing listing, in_netns_thread(scratch, [&]() -> Result<Listing> {
              ZT_TRY(apply_rules(options));
              return list();
            }));
  return &references_.emplace_back(options, std::move(listing)).second;
}

Result<> NftablesRedirector::probe() {
  auto tried = reference({});
  if (tried) return {};
  return fail(Reason::kIo, fmt::format("nftables redirection does not work here: {}. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN, "
                                       "and a kernel with nf_tables, nft_redir, nft_ct and nf_nat",
                                       tried.error().text));
}

Result<> NftablesRedirector::enroll(const RedirectedPod& pod) {
  // Routes first: rules without them would strand the proxy's connections to the application; they alone do
  // nothing.
  return in_netns_thread(*pod.netns, [&]() -> Result<> {
    ZT_TRY(add_policy_routes(pod.options.ipv6));
    return apply_rules(pod.options);
  });
}

Result<> NftablesRedirector::stop_capturing(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<> {
    ZT_ASSIGN(Nft nft, Nft::open());
    return nft.run(render_stop_capturing());
  });
}

Result<size_t> NftablesRedirector::carried_connections(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, [] { return count_carried_connections(); });
}

Result<> NftablesRedirector::unenroll(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<> {
    ZT_ASSIGN(Nft nft, Nft::open());
    ZT_TRY(nft.run(render_removal()));
    return remove_policy_routes();
  });
}

Result<Deviations> NftablesRedirector::verify(const RedirectedPod& pod) {
  ZT_ASSIGN(const Listing* wanted, reference(pod.options));
  return in_netns_thread(*pod.netns, [&]() -> Result<Deviations> {
    ZT_ASSIGN(const Listing actual, list());
    Deviations deviations;
    for (const auto table : kAllTables) {
      const auto want = wanted->find(table), have = actual.find(table);
      if (want == wanted->end() && have != actual.end()) {
        deviations.push_back(fmt::format("unexpected nftables table {}", table));
      } else if (want != wanted->end() && have == actual.end()) {
        deviations.push_back(fmt::format("missing nftables table {}", table));
      } else if (want != wanted->end() && want->second != have->second) {
        compare_lines(fmt::format("nftables table {}", table), keyed(want->second), keyed(have->second), deviations);
      }
    }
    ZT_ASSIGN(const Deviations routes, verify_policy_routes(pod.options.ipv6));
    deviations.insert(deviations.end(), routes.begin(), routes.end());
    return deviations;
  });
}

Result<std::vector<std::string>> list_nft_tables() {
  ZT_ASSIGN(Nft nft, Nft::open());
  ZT_ASSIGN(const std::string text, nft.list_tables());
  std::vector<std::string> tables;
  for (const auto line : nft_lines(text)) tables.emplace_back(line.starts_with("table ") ? line.substr(6) : line);
  return tables;
}

Result<Presence> NftablesRedirector::presence(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<Presence> {
    ZT_ASSIGN(const Listing listing, list());
    if (listing.empty()) return Presence::kNone;
    const auto nat = listing.find(kNatTable);
    const bool captures = nat != listing.end() && nat->second.find("redirect to") != std::string::npos;
    return captures ? Presence::kCaptures : Presence::kStopped;
  });
}

Result<> NftablesRedirector::make_way(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<> {
    ZT_ASSIGN(Nft nft, Nft::open());
    return nft.run(render_removal());
  });
}

}  // namespace zt::redirection
