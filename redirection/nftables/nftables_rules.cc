#include "redirection/nftables/nftables_rules.h"

#include <fmt/core.h>
#include <net/if.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "mesh/reason.h"
#include "redirection/constants.h"

namespace zt::redirection {

namespace {

// Parts of rules. Only the very first packet of a connection decides where it goes: a pod that is enrolled
// while it runs has connections that netfilter has never seen, and a later packet of theirs would look new to
// it and be led into a socket that does not know them.
constexpr std::string_view kFirstPacket = "tcp flags syn / fin,syn,rst,ack";

std::string mark_is(std::string_view what, std::string_view comparison, uint32_t value) {
  return fmt::format("{} & {:#010x} {} {:#010x}", what, kMarkMask, comparison, value);
}
const std::string& not_proxy() {
  static const std::string text = mark_is("meta mark", "!=", kProxyMark);
  return text;
}
const std::string& proxy() {
  static const std::string text = mark_is("meta mark", "==", kProxyMark);
  return text;
}

struct IpFamily {
  std::string_view name;
  std::string_view loopback;
  std::string_view probe;
};
constexpr IpFamily kIp4{"ip", "127.0.0.1", kProbeAddressV4};
constexpr IpFamily kIp6{"ip6", "::1", kProbeAddressV6};

struct BaseChain {
  std::string_view hook;  // "prerouting", "output"
  std::string_view type;
  int priority;
};

// Two base chains and the two regular ones, istio-<hook>, that they jump to.
class Table {
 public:
  Table(std::string_view name, std::string_view prerouting_type, std::string_view output_type, int priority)
      : name_(name), chains_{{{"prerouting", prerouting_type, priority}, {"output", output_type, priority}}} {}

  void prerouting(std::string rule) { rules_[0].push_back(std::move(rule)); }
  void output(std::string rule) { rules_[1].push_back(std::move(rule)); }

  [[nodiscard]] std::string render() const {
    std::string out = fmt::format("table inet {} {{\n", name_);
    for (const BaseChain& chain : chains_) {
      out += fmt::format("  chain {} {{\n    type {} hook {} priority {}; policy accept;\n    jump istio-{}\n  }}\n", chain.hook,
                         chain.type, chain.hook, chain.priority, chain.hook);
    }
    for (size_t i = 0; i < chains_.size(); ++i) {
      out += fmt::format("  chain istio-{} {{\n", chains_[i].hook);
      for (const auto& rule : rules_[i]) out += fmt::format("    {}\n", rule);
      out += "  }\n";
    }
    return out + "}\n";
  }

 private:
  std::string_view name_;
  std::array<BaseChain, 2> chains_;
  std::array<std::vector<std::string>, 2> rules_;
};

std::string redirect_to(uint16_t port) { return fmt::format("counter redirect to :{}", port); }

// One rule of its parts; empty ones are left out.
std::string rule(std::initializer_list<std::string_view> parts) {
  std::string out;
  for (const auto part : parts) {
    if (!out.empty() && !part.empty()) out += ' ';
    out += part;
  }
  return out;
}

// First among the rules that redirect: what they match goes its own way.
void exclude(const Exclusions& exclusions, const std::vector<IpFamily>& families, std::string_view far_end,
             const std::function<void(std::string)>& add) {
  for (const auto& range : exclusions.ranges) {
    const std::string_view family = range.base.is_v6() ? kIp6.name : kIp4.name;
    if (std::ranges::none_of(families, [&](const IpFamily& ip) { return ip.name == family; })) continue;
    add(fmt::format("{} {} {} counter accept", family, far_end, range.to_string()));
  }
  for (const auto& ports : exclusions.ports) {
    add(fmt::format("meta l4proto {{ tcp, udp }} th dport {}-{} counter accept", ports.first, ports.last));
  }
}

Table nat_table(const RedirectionOptions& options, const std::vector<IpFamily>& families) {
  constexpr std::string_view kTcp = "meta l4proto tcp";
  const std::string_view first = options.cut_established ? "" : kFirstPacket;
  const std::string_view any = options.cut_established ? kTcp : "";
  const std::string to_outbound = redirect_to(kOutboundPort), to_dns = redirect_to(kDnsPort);
  const std::string to_inbound = redirect_to(kInboundPlaintextPort);
  const std::string not_hbone = fmt::format("tcp dport != {}", kInboundHbonePort);
  const std::string looped = mark_is("meta mark", "==", kLoopMark);

  Table table(kNatTable, "nat", "nat", -100);
  for (const auto& name : options.virtual_interfaces) {
    const std::string arriving = fmt::format("iifname \"{}\"", name);
    table.prerouting(rule({arriving, any, first, to_outbound}));
    table.prerouting(rule({arriving, kTcp, "counter return"}));
  }
  if (!options.ingress) {
    for (const auto& ip : families) table.prerouting(rule({kTcp, ip.name, "saddr", ip.probe, "counter accept"}));
    exclude(options.inbound, families, "saddr", [&](std::string text) { table.prerouting(std::move(text)); });
    for (const auto& ip : families) {
      table.prerouting(rule({ip.name, "daddr !=", ip.loopback, not_hbone, first, not_proxy(), to_inbound}));
    }
  }
  for (const auto& ip : families) table.output(rule({kTcp, ip.name, "daddr", ip.probe, "counter accept"}));
  exclude(options.outbound, families, "daddr", [&](std::string text) { table.output(std::move(text)); });
  if (options.dns) {
    table.output(rule({"oifname != \"lo\"", not_proxy(), "udp dport 53", to_dns}));
    for (const auto& ip : families) {
      table.output(rule({ip.name, "daddr !=", ip.loopback, "tcp dport 53", first, not_proxy(), to_dns}));
    }
  }
  table.output(rule({kTcp, looped, "counter accept"}));
  for (const auto& ip : families) {
    table.output(rule({"oifname \"lo\"", ip.name, "daddr !=", ip.loopback, "counter accept"}));
  }
  for (const auto& ip : families) {
    table.output(rule({any, ip.name, "daddr !=", ip.loopback, first, not_proxy(), to_outbound}));
  }
  return table;
}

// The way back for connections that the proxy opens with a client's address: their packets come in over lo
// still marked, the mark is kept with the connection, and the application's answers get it as a routing mark
// (policy_routes.h).
Table mangle_table() {
  Table table(kMangleTable, "filter", "route", -150);
  table.prerouting(fmt::format("{} counter ct mark set ct mark & {:#010x} | {:#010x}", proxy(), ~kMarkMask, kLoopMark));
  table.output(fmt::format("{} counter meta mark set ct mark", mark_is("ct mark", "==", kLoopMark)));
  return table;
}

// The proxy's own DNS queries may have the same addresses and ports as the application's: another conntrack
// zone keeps them apart.
Table raw_table() {
  Table table(kRawTable, "filter", "filter", -300);
  table.prerouting(fmt::format("udp sport 53 {} counter ct zone set 1", not_proxy()));
  table.output(fmt::format("udp dport 53 {} counter ct zone set 1", proxy()));
  return table;
}

// nft has no "delete if there": adding first makes the deletion succeed always.
std::string render_drop(std::string_view table) { return fmt::format("add table inet {0}\ndelete table inet {0}\n", table); }

}  // namespace

std::string render_pod_rules(const RedirectionOptions& options) {
  std::vector<IpFamily> families{kIp4};
  if (options.ipv6) families.push_back(kIp6);
  std::string out = render_removal();
  out += nat_table(options, families).render();
  out += mangle_table().render();
  if (options.dns) out += raw_table().render();
  return out;
}

std::string render_stop_capturing() {
  return fmt::format(
      "add table inet {0}\n"
      "add chain inet {0} istio-prerouting\n"
      "add chain inet {0} istio-output\n"
      "flush chain inet {0} istio-prerouting\n"
      "flush chain inet {0} istio-output\n",
      kNatTable);
}

std::string render_removal() {
  std::string out;
  for (const auto table : kAllTables) out += render_drop(table);
  return out;
}

}  // namespace zt::redirection
