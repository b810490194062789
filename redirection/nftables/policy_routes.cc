#include "redirection/nftables/policy_routes.h"

#include <fmt/core.h>
#include <linux/fib_rules.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "base/linux/netlink.h"
#include "base/log.h"
#include "mesh/reason.h"
#include "redirection/constants.h"

namespace zt::redirection {

namespace {

log::Scope log_routes("redirection");

struct Family {
  uint8_t number;
  std::string_view name;
};
constexpr Family kV4{AF_INET, "IPv4"};
constexpr Family kV6{AF_INET6, "IPv6"};

// /proc/sys/net shows the namespace of the thread that opens a file in it.
constexpr const char* kLoIpv6Off = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

// Whether lo can carry IPv6 routes here.
bool lo_has_ipv6() {
  std::ifstream file(kLoIpv6Off);
  std::string value;
  return static_cast<bool>(file >> value) && value != "1";
}

// Whether somebody can reach the pod over IPv6: an interface other than lo has an address that is not just the link's.
bool is_reachable_over_ipv6() {
  // address index prefix-length scope flags interface
  std::ifstream file("/proc/thread-self/net/if_inet6");
  constexpr unsigned kLinkScope = 0x20;
  std::string address, index, prefix, scope, flags, interface;
  while (file >> address >> index >> prefix >> scope >> flags >> interface) {
    if (interface != "lo" && std::strtoul(scope.c_str(), nullptr, 16) != kLinkScope) return true;
  }
  return false;
}

// The kernel moves packets between two sockets of one namespace over lo, and drops IPv6 there while lo has it off: the proxy
// would take a call over IPv6 and not be able to hand it to the application. No route leads around lo.
Result<> give_lo_ipv6() {
  std::ofstream file(kLoIpv6Off);
  if (file << 0 << std::flush) return {};
  return fail_errno(Reason::kIo, fmt::format("cannot write {}", kLoIpv6Off));
}

Result<uint32_t> lo_index() {
  const unsigned index = ::if_nametoindex("lo");
  if (index == 0) return fail_errno(Reason::kIo, "interface lo");
  return index;
}

NetlinkRequest rule_request(const Family& family, uint16_t type, uint16_t flags) {
  fib_rule_hdr header{};
  header.family = family.number;
  header.action = FR_ACT_TO_TBL;
  header.table = kRouteTable;
  NetlinkRequest request(type, flags, header);
  request.attribute(FRA_FWMARK, kLoopMark);
  request.attribute(FRA_FWMASK, kMarkMask);
  request.attribute(FRA_PRIORITY, kRulePriority);
  request.attribute(FRA_TABLE, kRouteTable);
  return request;
}

NetlinkRequest route_request(const Family& family, uint16_t type, uint16_t flags, uint32_t lo) {
  rtmsg header{};
  header.rtm_family = family.number;
  header.rtm_table = kRouteTable;
  // Whoever added it and how: what is to be deleted is matched by the rest.
  const bool removal = type == RTM_DELROUTE;
  header.rtm_protocol = removal ? RTPROT_UNSPEC : RTPROT_BOOT;
  header.rtm_scope = removal ? RT_SCOPE_NOWHERE : RT_SCOPE_HOST;
  header.rtm_type = RTN_LOCAL;
  NetlinkRequest request(type, flags, header);
  request.attribute(RTA_TABLE, kRouteTable);
  request.attribute(RTA_OIF, lo);
  return request;
}

Result<> expect(Result<int> answer, std::initializer_list<int> also_fine, std::string what) {
  if (!answer) return fail(answer.error().reason, what + ": " + answer.error().text);
  if (*answer == 0 || std::find(also_fine.begin(), also_fine.end(), *answer) != also_fine.end()) return {};
  const bool lo_down = *answer == ENETDOWN || *answer == ENETUNREACH;
  return fail(Reason::kIo, fmt::format("{}: {}{}", what, errno_text(*answer), lo_down ? " (is lo up in the pod?)" : ""));
}

Result<> add(NetlinkSocket& netlink, const Family& family, uint32_t lo) {
  ZT_TRY(expect(netlink.request(route_request(family, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, lo)), {},
                fmt::format("cannot add the {} route of table {}", family.name, kRouteTable)));
  return expect(netlink.request(rule_request(family, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)), {EEXIST},
                fmt::format("cannot add the {} rule for mark {:#x}", family.name, kLoopMark));
}

Result<> remove(NetlinkSocket& netlink, const Family& family, uint32_t lo) {
  // A namespace without the family, the table or the entry has nothing to remove.
  ZT_TRY(expect(netlink.request(rule_request(family, RTM_DELRULE, 0)), {ENOENT, ESRCH, EAFNOSUPPORT, EOPNOTSUPP},
                fmt::format("cannot remove the {} rule for mark {:#x}", family.name, kLoopMark)));
  return expect(netlink.request(route_request(family, RTM_DELROUTE, 0, lo)),
                {ENOENT, ESRCH, ENETDOWN, ENETUNREACH, EAFNOSUPPORT, EOPNOTSUPP},
                fmt::format("cannot remove the {} route of table {}", family.name, kRouteTable));
}

Result<bool> has_rule(NetlinkSocket& netlink, const Family& family) {
  bool found = false;
  fib_rule_hdr header{};
  header.family = family.number;
  const auto on_rule = [&](const nlmsghdr& message) {
    const auto* rule = body_of<fib_rule_hdr>(message);
    if (message.nlmsg_type != RTM_NEWRULE || rule == nullptr) return;
    uint32_t mark = 0, mask = 0, priority = 0, table = rule->table;
    for_each_attribute(message, sizeof *rule, [&](const nlattr& attribute) {
      switch (::mnl_attr_get_type(&attribute)) {
        case FRA_FWMARK: mark = as_u32(attribute); break;
        case FRA_FWMASK: mask = as_u32(attribute); break;
        case FRA_PRIORITY: priority = as_u32(attribute); break;
        case FRA_TABLE: table = as_u32(attribute); break;
        default: break;
      }
    });
    const bool plain = rule->src_len == 0 && rule->dst_len == 0 && (rule->flags & FIB_RULE_INVERT) == 0;
    found |= rule->family == family.number && rule->action == FR_ACT_TO_TBL && plain && mark == kLoopMark && mask == kMarkMask &&
             priority == kRulePriority && table == kRouteTable;
  };
  ZT_TRY(expect(netlink.dump(NetlinkRequest(RTM_GETRULE, 0, header), on_rule, [&] { found = false; }), {EAFNOSUPPORT, EOPNOTSUPP},
                fmt::format("cannot list the {} rules", family.name)));
  return found;
}

Result<bool> has_route(NetlinkSocket& netlink, const Family& family, uint32_t lo) {
  bool found = false;
  rtmsg header{};
  header.rtm_family = family.number;
  const auto on_route = [&](const nlmsghdr& message) {
    const auto* route = body_of<rtmsg>(message);
    if (message.nlmsg_type != RTM_NEWROUTE || route == nullptr) return;
    uint32_t table = route->rtm_table, oif = 0;
    for_each_attribute(message, sizeof *route, [&](const nlattr& attribute) {
      if (::mnl_attr_get_type(&attribute) == RTA_TABLE) table = as_u32(attribute);
      if (::mnl_attr_get_type(&attribute) == RTA_OIF) oif = as_u32(attribute);
    });
    found |= route->rtm_family == family.number && table == kRouteTable && route->rtm_type == RTN_LOCAL &&
             route->rtm_dst_len == 0 && oif == lo;
  };
  ZT_TRY(expect(netlink.dump(NetlinkRequest(RTM_GETROUTE, 0, header), on_route, [&] { found = false; }),
                {EAFNOSUPPORT, EOPNOTSUPP}, fmt::format("cannot list the {} routes", family.name)));
  return found;
}

}  // namespace

Result<> add_policy_routes(bool ipv6) {
  ZT_ASSIGN(NetlinkSocket netlink, NetlinkSocket::open(NETLINK_ROUTE));
  ZT_ASSIGN(const uint32_t lo, lo_index());
  ZT_TRY(add(netlink, kV4, lo));
  if (ipv6 && !lo_has_ipv6() && is_reachable_over_ipv6()) {
    // Refused (a read-only /proc/sys), IPv4 works none the less, and verify_policy_routes() says what does not.
    if (auto given = give_lo_ipv6(); !given) {
      ZT_LOG(log_routes, kWarn, "the pod's applications cannot be reached over IPv6: lo has it switched off",
             Field::string("error", given.error().text));
    }
  }
  return ipv6 && lo_has_ipv6() ? add(netlink, kV6, lo) : remove(netlink, kV6, lo);
}

Result<> remove_policy_routes() {
  ZT_ASSIGN(NetlinkSocket netlink, NetlinkSocket::open(NETLINK_ROUTE));
  ZT_ASSIGN(const uint32_t lo, lo_index());
  // Both are tried, whatever the first one says.
  auto v4 = remove(netlink, kV4, lo);
  auto v6 = remove(netlink, kV6, lo);
  return v4 ? v6 : v4;
}

Result<Deviations> verify_policy_routes(bool ipv6) {
  ZT_ASSIGN(NetlinkSocket netlink, NetlinkSocket::open(NETLINK_ROUTE));
  ZT_ASSIGN(const uint32_t lo, lo_index());
  Deviations deviations;
  if (ipv6 && !lo_has_ipv6() && is_reachable_over_ipv6()) {
    deviations.push_back("lo has IPv6 switched off, so that applications cannot be reached over IPv6");
  }
  for (const Family& family : {kV4, kV6}) {
    const bool wanted = family.number == AF_INET || (ipv6 && lo_has_ipv6());
    ZT_ASSIGN(const bool rule, has_rule(netlink, family));
    ZT_ASSIGN(const bool route, has_route(netlink, family, lo));
    const char* what = wanted ? "missing" : "unexpected";
    if (rule != wanted) {
      deviations.push_back(
          fmt::format("{} {} rule: fwmark {:#x}/{:#x} lookup {}", what, family.name, kLoopMark, kMarkMask, kRouteTable));
    }
    if (route != wanted) {
      deviations.push_back(fmt::format("{} {} route: local default dev lo table {}", what, family.name, kRouteTable));
    }
  }
  return deviations;
}

// A captured connection ends in a socket at 15001 or 15006; one that came through a tunnel shows only as the
// proxy's own, marked connection to the application. Tunnels themselves (15008 at either end) do not count:
// they are pooled and may be idle. Without netfilter (ebpf/) the proxy's connection to the application has the other mark,
// and the application's end of it too.
Result<size_t> count_carried_connections() {
  ZT_ASSIGN(NetlinkSocket netlink, NetlinkSocket::open(NETLINK_SOCK_DIAG));
  // The states in which bytes can still flow: one side may have closed.
  constexpr uint32_t kStates = 1u << TCP_ESTABLISHED | 1u << TCP_FIN_WAIT1 | 1u << TCP_FIN_WAIT2 | 1u << TCP_CLOSE_WAIT;
  size_t total = 0, looped = 0;
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 query{};
    query.sdiag_family = family;
    query.sdiag_protocol = IPPROTO_TCP;
    query.idiag_states = kStates;
    size_t count = 0, marked = 0;
    const auto on_socket = [&](const nlmsghdr& message) {
      const auto* socket = body_of<inet_diag_msg>(message);
      if (message.nlmsg_type != SOCK_DIAG_BY_FAMILY || socket == nullptr) return;
      uint32_t mark = 0;
      for_each_attribute(message, sizeof *socket, [&](const nlattr& attribute) {
        if (::mnl_attr_get_type(&attribute) == INET_DIAG_MARK) mark = as_u32(attribute);
      });
      const uint16_t local = ntohs(socket->id.idiag_sport), remote = ntohs(socket->id.idiag_dport);
      const bool captured = local == kOutboundPort || local == kInboundPlaintextPort;
      const bool tunnel = local == kInboundHbonePort || remote == kInboundHbonePort;
      marked += (mark & kMarkMask) == kLoopMark ? 1 : 0;
      count += captured || ((mark & kMarkMask) == kProxyMark && !tunnel) ? 1 : 0;
    };
    ZT_TRY(expect(netlink.dump(NetlinkRequest(SOCK_DIAG_BY_FAMILY, 0, query), on_socket, [&] { count = marked = 0; }),
                  {ENOENT, EAFNOSUPPORT}, "cannot list the pod's TCP connections"));
    total += count;
    looped += marked;
  }
  return total + (looped + 1) / 2;
}

}  // namespace zt::redirection
