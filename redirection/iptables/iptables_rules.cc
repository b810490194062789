#include "redirection/iptables/iptables_rules.h"

#include <fmt/core.h>

#include <algorithm>

#include "redirection/constants.h"

namespace zt::redirection {

namespace {

// Every chain of ours is called so, and a peer's too.
constexpr std::string_view kOurs = "ISTIO_";
constexpr std::string_view kPrerouting = "ISTIO_PRERT";
constexpr std::string_view kOutput = "ISTIO_OUTPUT";

// The first packet of a connection only: nftables_rules.cc says why.
constexpr std::string_view kFirstPacket = "--tcp-flags FIN,SYN,RST,ACK SYN ";

struct Addresses {
  std::string_view loopback, probe;
};
constexpr Addresses kIp4{"127.0.0.1/32", kProbeAddressV4};
constexpr Addresses kIp6{"::1/128", kProbeAddressV6};

std::string mark(uint32_t value) { return fmt::format("{:#x}/{:#x}", value, kMarkMask); }

using Rules = std::vector<std::string>;

// First among the rules that redirect: what they match goes its own way.
void exclude(const Exclusions& exclusions, bool v6, std::string_view chain, std::string_view far_end, Rules& rules) {
  for (const auto& range : exclusions.ranges) {
    if (range.base.is_v6() == v6) rules.push_back(fmt::format("-A {} {} {} -j ACCEPT", chain, far_end, range.to_string()));
  }
  for (const auto& ports : exclusions.ports) {
    for (const std::string_view protocol : {"tcp", "udp"}) {
      rules.push_back(fmt::format("-A {0} -p {1} -m {1} --dport {2}:{3} -j ACCEPT", chain, protocol, ports.first, ports.last));
    }
  }
}

Rules nat_rules(const RedirectionOptions& options, bool v6) {
  const Addresses& ip = v6 ? kIp6 : kIp4;
  const std::string_view first = options.cut_established ? "" : kFirstPacket;
  const std::string not_proxy = fmt::format("-m mark ! --mark {}", mark(kProxyMark));
  const auto redirect = [](uint16_t port) { return fmt::format("-j REDIRECT --to-ports {}", port); };
  const std::string any_tcp =
      options.cut_established ? "-p tcp" : fmt::format("-p tcp -m tcp {}", first.substr(0, first.size() - 1));
  Rules rules;
  for (const auto& name : options.virtual_interfaces) {
    rules.push_back(fmt::format("-A {} -i {} {} {}", kPrerouting, name, any_tcp, redirect(kOutboundPort)));
    rules.push_back(fmt::format("-A {} -i {} -p tcp -j RETURN", kPrerouting, name));
  }
  if (!options.ingress) {
    rules.push_back(fmt::format("-A {} -s {} -p tcp -m tcp -j ACCEPT", kPrerouting, ip.probe));
    exclude(options.inbound, v6, kPrerouting, "-s", rules);
    rules.push_back(fmt::format("-A {} ! -d {} -p tcp -m tcp ! --dport {} {}{} {}", kPrerouting, ip.loopback, kInboundHbonePort,
                                first, not_proxy, redirect(kInboundPlaintextPort)));
  }
  rules.push_back(fmt::format("-A {} -d {} -p tcp -m tcp -j ACCEPT", kOutput, ip.probe));
  exclude(options.outbound, v6, kOutput, "-d", rules);
  if (options.dns) {
    rules.push_back(fmt::format("-A {} ! -o lo -p udp {} -m udp --dport 53 {}", kOutput, not_proxy, redirect(kDnsPort)));
    rules.push_back(fmt::format("-A {} ! -d {} -p tcp -m tcp --dport 53 {}{} {}", kOutput, ip.loopback, first, not_proxy,
                                redirect(kDnsPort)));
  }
  rules.push_back(fmt::format("-A {} -p tcp -m mark --mark {} -j ACCEPT", kOutput, mark(kLoopMark)));
  rules.push_back(fmt::format("-A {} ! -d {} -o lo -j ACCEPT", kOutput, ip.loopback));
  rules.push_back(fmt::format("-A {} ! -d {} {} {} {}", kOutput, ip.loopback, any_tcp, not_proxy, redirect(kOutboundPort)));
  return rules;
}

Rules mangle_rules() {
  return {fmt::format("-A {} -m mark --mark {} -j CONNMARK --set-xmark {}", kPrerouting, mark(kProxyMark), mark(kLoopMark)),
          fmt::format("-A {} -m connmark --mark {} -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", kOutput,
                      mark(kLoopMark))};
}

Rules raw_rules() {
  return {fmt::format("-A {} -p udp -m mark --mark {} -m udp --dport 53 -j CT --zone 1", kOutput, mark(kProxyMark)),
          fmt::format("-A {} -p udp -m mark ! --mark {} -m udp --sport 53 -j CT --zone 1", kPrerouting, mark(kProxyMark))};
}

std::string chain_of(std::string_view line) {  // ":NAME", or "-A NAME …"
  line.remove_prefix(line.starts_with(':') ? 1 : 3);
  return std::string(line.substr(0, line.find(' ')));
}

size_t count(const IptablesRules& present, std::string_view table, std::string_view line) {
  const auto at = present.find(table);
  return at == present.end() ? 0 : static_cast<size_t>(std::count(at->second.begin(), at->second.end(), line));
}

std::string render_table(std::string_view table, const Rules& rules, const IptablesRules& present) {
  std::string out = fmt::format("*{}\n:{} - [0:0]\n:{} - [0:0]\n", table, kPrerouting, kOutput);
  // With --noflush the lines above empty chains of ours that are there already, in the same transaction; jumps stay, and must not
  // become two.
  for (const auto& jump : {fmt::format("PREROUTING -j {}", kPrerouting), fmt::format("OUTPUT -j {}", kOutput)}) {
    const size_t have = count(present, table, "-A " + jump);
    if (have == 0) out += fmt::format("-A {}\n", jump);
    for (size_t i = 1; i < have; ++i) out += fmt::format("-D {}\n", jump);
  }
  for (const auto& rule : rules) out += rule + "\n";
  return out + "COMMIT\n";
}

}  // namespace

IptablesRules parse_iptables_save(std::string_view text) {
  IptablesRules rules;
  std::string table;
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.starts_with('*')) {
      table = line.substr(1);
    } else if (line.starts_with(':') && line.substr(1).starts_with(kOurs)) {
      rules[table].push_back(":" + chain_of(line));
    } else if (line.starts_with("-A ")) {
      const auto target = line.find("-j ISTIO_");
      const auto target_goto = line.find("-g ISTIO_");
      if (line.substr(3).starts_with(kOurs) || target != std::string_view::npos || target_goto != std::string_view::npos) {
        rules[table].emplace_back(line);
      }
    }
  }
  return rules;
}

std::string render_iptables_rules(const RedirectionOptions& options, bool v6, const IptablesRules& present) {
  std::string out = render_table("mangle", mangle_rules(), present) + render_table("nat", nat_rules(options, v6), present);
  if (options.dns) return out + render_table("raw", raw_rules(), present);
  IptablesRules raw;
  if (const auto left_over = present.find("raw"); left_over != present.end()) raw.insert(*left_over);
  return out + render_iptables_removal(raw);
}

std::string render_iptables_stop_capturing() {
  return fmt::format("*nat\n:{} - [0:0]\n:{} - [0:0]\nCOMMIT\n", kPrerouting, kOutput);
}

std::string render_iptables_removal(const IptablesRules& present) {
  std::string out;
  for (const auto& [table, lines] : present) {
    std::string emptied, jumps, removed;
    for (const auto& line : lines) {
      const std::string chain = chain_of(line);
      if (line.starts_with(':')) {
        emptied += fmt::format(":{} - [0:0]\n", chain);
        removed += fmt::format("-X {}\n", chain);
      } else if (!chain.starts_with(kOurs)) {
        jumps += "-D " + line.substr(3) + "\n";
      }
    }
    out += fmt::format("*{}\n{}{}{}COMMIT\n", table, emptied, jumps, removed);
  }
  return out;
}

}  // namespace zt::redirection
