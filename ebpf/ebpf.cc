#include "ebpf/ebpf.h"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "mesh/reason.h"
#include "redirection/nftables/policy_routes.h"

namespace zt::redirection {

namespace {

uint32_t flags_of(const RedirectionOptions& options) {
  return ZT_CAPTURES | (options.dns ? ZT_DNS : 0) | (options.ingress ? ZT_INGRESS : 0) | (options.ipv6 ? ZT_IPV6 : 0);
}

bool same(const zt_address& a, const zt_address& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// To compare. Without those of a link alone: they come and go by themselves, and only matter to a pod that calls itself by one.
std::vector<zt_address> sorted(std::vector<zt_address> addresses) {
  std::erase_if(addresses, [](const zt_address& address) { return (ntohl(address.word[0]) & 0xffc00000) == 0xfe800000; });
  std::sort(addresses.begin(), addresses.end(),
            [](const zt_address& a, const zt_address& b) { return std::memcmp(&a, &b, sizeof a) < 0; });
  return addresses;
}

}  // namespace

std::string_view EbpfRedirector::unsuited(const RedirectionOptions& options) const {
  if (!options.virtual_interfaces.empty()) return "connections of virtual interfaces are not dialled by a process of the pod";
  if (options.cut_established) return "it cannot cut established connections";
  return {};
}

Result<> EbpfRedirector::probe() {
  auto installed = Programs::install(settings_.bpffs, settings_.cgroup);
  if (!installed) {
    return fail(Reason::kIo,
                fmt::format("eBPF redirection does not work here: {}. It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or "
                            "CAP_SYS_ADMIN), cgroup version 2, a bpf file system and Linux 5.15",
                            installed.error().text));
  }
  // And the half of it that goes into a pod, in a namespace that goes away at once.
  ZT_ASSIGN(const Netns scratch, make_scratch_netns());
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(scratch, [] { return look_at_namespace(); }));
  ZT_TRY(installed->attach_inbound(found.cookie, scratch));
  return installed->detach_inbound(found.cookie);
}

// All that a pod needs before it is captured. Alone it changes nothing.
Result<> EbpfRedirector::prepare(Programs& programs, const PodNamespace& found, const RedirectedPod& pod) {
  ZT_TRY(programs.put_own_addresses(found.cookie, found.addresses));
  if (!programs.is_inbound_attached(found.cookie, *pod.netns)) ZT_TRY(programs.attach_inbound(found.cookie, *pod.netns));
  if (programs.has_listener(found.cookie)) return {};
  // Proxies that come later enter themselves (on_listen() of outbound.bpf.c).
  ZT_ASSIGN(const std::vector<UniqueFd> sockets, in_netns_thread(*pod.netns, [] { return take_listeners(); }));
  for (uint32_t slot = 0; slot < sockets.size() && slot < ZT_LISTENER_SLOTS; ++slot) {
    ZT_TRY(programs.put_listener(found.cookie, slot, sockets[slot].get()));
  }
  return {};
}

Result<> EbpfRedirector::enroll(const RedirectedPod& pod) {
  ZT_ASSIGN(Programs programs, Programs::install(settings_.bpffs, settings_.cgroup));
  bool set_here = false;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [&]() -> Result<PodNamespace> {
              ZT_TRY(add_policy_routes(pod.options.ipv6));
              if (!answers_keep_marks()) {
                ZT_TRY(set_answers_keep_marks(true));
                set_here = true;
              }
              return look_at_namespace();
            }));
  ZT_TRY(prepare(programs, found, pod));
  const auto before = programs.pod(found.cookie);
  set_here = set_here || (before && (before->flags & ZT_SET_MARKS) != 0);
  zt_pod entry{};
  entry.flags = flags_of(pod.options) | (set_here ? ZT_SET_MARKS : 0);
  entry.own4 = found.own4;
  entry.own6 = found.own6;
  return programs.put_pod(found.cookie, entry);
}

Result<> EbpfRedirector::stop_capturing(const RedirectedPod& pod) {
  auto programs = Programs::open(settings_.bpffs);
  if (!programs) return {};
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [] { return look_at_namespace(); }));
  auto entry = programs->pod(found.cookie);
  if (!entry) return {};
  entry->flags &= ~uint32_t{ZT_CAPTURES};
  return programs->put_pod(found.cookie, *entry);
}

Result<size_t> EbpfRedirector::carried_connections(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, [] { return count_carried_connections(); });
}

Result<> EbpfRedirector::make_way(const RedirectedPod& pod) {
  auto programs = Programs::open(settings_.bpffs);
  if (!programs) return {};
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [] { return look_at_namespace(); }));
  const auto entry = programs->pod(found.cookie);
  ZT_TRY(programs->detach_inbound(found.cookie));
  programs->remove_pod(found.cookie);
  return in_netns_thread(*pod.netns, [&]() -> Result<> {
    if (entry && (entry->flags & ZT_SET_MARKS) != 0) return set_answers_keep_marks(false);
    return {};
  });
}

Result<> EbpfRedirector::unenroll(const RedirectedPod& pod) {
  ZT_TRY(make_way(pod));
  return in_netns_thread(*pod.netns, [] { return remove_policy_routes(); });
}

Result<Presence> EbpfRedirector::presence(const RedirectedPod& pod) {
  const auto programs = Programs::open(settings_.bpffs);
  if (!programs) return Presence::kNone;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [] { return look_at_namespace(); }));
  const auto entry = programs->pod(found.cookie);
  if (entry) return (entry->flags & ZT_CAPTURES) != 0 ? Presence::kCaptures : Presence::kStopped;
  return programs->has_inbound(found.cookie) ? Presence::kStopped : Presence::kNone;
}

Result<Deviations> EbpfRedirector::verify(const RedirectedPod& pod) {
  Deviations deviations;
  bool marks = false;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [&]() -> Result<PodNamespace> {
              ZT_ASSIGN(deviations, verify_policy_routes(pod.options.ipv6));
              marks = answers_keep_marks();
              return look_at_namespace();
            }));
  if (!marks)
    deviations.push_back("answers do not keep marks (net.ipv4.tcp_fwmark_accept, fwmark_reflect), so that they go astray");
  const auto programs = Programs::open(settings_.bpffs);
  if (!programs) {
    deviations.push_back("missing eBPF programs: " + programs.error().text);
    return deviations;
  }
  for (auto& deviation : programs->verify()) deviations.push_back(std::move(deviation));
  if (!programs->is_inbound_attached(found.cookie, *pod.netns))
    deviations.push_back("missing eBPF program in the pod's namespace");
  const auto have = sorted(programs->own_addresses(found.cookie)), want = sorted(found.addresses);
  if (!std::equal(have.begin(), have.end(), want.begin(), want.end(), same)) {
    deviations.push_back("the pod's addresses in the eBPF map are not those that it has");
  }
  const auto entry = programs->pod(found.cookie);
  if (!entry) {
    deviations.push_back("missing eBPF entry of the pod");
  } else if ((entry->flags & ~uint32_t{ZT_SET_MARKS}) != flags_of(pod.options) || !same(entry->own4, found.own4) ||
             !same(entry->own6, found.own6)) {
    deviations.push_back("the pod's eBPF entry says something else");
  }
  return deviations;
}

}  // namespace zt::redirection
