#include "ebpf/ebpf.h"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"
#include "redirection/nftables/policy_routes.h"

namespace zt::redirection {

namespace {

log::Scope log_ebpf("redirection");

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
  if (!options.inbound.empty() || !options.outbound.empty()) return "it knows no excluded ports and ranges";
  if (options.cut_established) return "it cannot cut established connections";
  return {};
}

Result<> EbpfRedirector::probe() {
  if (auto tried = try_it(); !tried) {
    return fail(Reason::kIo,
                fmt::format("eBPF redirection does not work here: {}. It needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN, cgroup "
                            "version 2, a bpf file system, /proc/sys to be written and Linux 5.15",
                            tried.error().text));
  }
  return {};
}

Result<> EbpfRedirector::try_it() {
  ZT_ASSIGN(const Cgroup group, find_cgroup(settings_.cgroup));
  if (settings_.cgroup.empty()) {
    // Ours would see what it has made of the address. Under a group of the pods ours run first.
    ZT_ASSIGN(const std::string other, translator_at(group));
    if (!other.empty()) {
      return fail(Reason::kIo,
                  fmt::format("the program {} is attached to the root of the cgroups and changes addresses before ours "
                              "could: name the group that all pods are under (--cgroup)",
                              other));
    }
  }
  ZT_ASSIGN(Programs programs, Programs::install(settings_.bpffs, group, true));
  look_around(programs, group);
  // And the half of it that goes into a pod, in a namespace that goes away at once.
  ZT_ASSIGN(const Netns scratch, make_scratch_netns());
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(scratch, []() -> Result<PodNamespace> {
              ZT_TRY(set_answers_keep_marks(true));
              return look_at_namespace();
            }));
  ZT_TRY(programs.attach_inbound(found.cookie, scratch));
  return programs.detach_inbound(found.cookie);
}

// What follows from the node, and not from any pod.
void EbpfRedirector::look_around(Programs& programs, const Cgroup& group) {
  looked_ = std::chrono::steady_clock::now();
  // It gets another group when it is started again.
  const uint64_t kubelet = find_kubelet(settings_.proc, group.path);
  if (auto put = programs.put_kubelet(kubelet); put && std::exchange(kubelet_, kubelet) != kubelet) {
    ZT_LOG(log_ebpf, kInfo,
           kubelet != 0 ? "the kubelet's probes are let through" : "no kubelet is seen here: its probes are as anybody's");
  }
  if (const size_t gone = programs.sweep(); gone > 0) {
    ZT_LOG(log_ebpf, kInfo, "what eBPF redirection kept of pods that have ended is taken out",
           Field::count("pods", static_cast<int64_t>(gone)));
  }
}

void EbpfRedirector::look_around_now_and_then(Programs& programs, const Cgroup& group) {
  constexpr std::chrono::seconds kPause(10);
  if (std::chrono::steady_clock::now() - looked_ >= kPause) look_around(programs, group);
}

Result<> EbpfRedirector::enroll(const RedirectedPod& pod) {
  ZT_ASSIGN(const Cgroup group, find_cgroup(settings_.cgroup));
  ZT_ASSIGN(Programs programs, Programs::install(settings_.bpffs, group));
  look_around_now_and_then(programs, group);
  bool marks = false;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [&]() -> Result<PodNamespace> {
              ZT_TRY(add_policy_routes(pod.options.ipv6));
              marks = answers_keep_marks();
              return look_at_namespace();
            }));
  // First what a sweep goes by, so that nothing is left of the pod whatever happens next. Alone it changes nothing.
  if (!programs.is_inbound_attached(found.cookie, *pod.netns)) ZT_TRY(programs.attach_inbound(found.cookie, *pod.netns));
  ZT_TRY(programs.put_own_addresses(found.cookie, found.addresses));
  // Written down before it is done, so that leaving undoes it.
  auto entry = programs.pod(found.cookie).value_or(zt_pod{});
  if (!marks) entry.flags |= ZT_SET_MARKS;
  ZT_TRY(programs.put_pod(found.cookie, entry));
  if (!marks) ZT_TRY(in_netns_thread(*pod.netns, [] { return set_answers_keep_marks(true); }));
  // Proxies that come later enter themselves (on_listen() of outbound.bpf.c): the pod has an entry.
  if (!programs.has_listener(found.cookie)) {
    ZT_ASSIGN(const std::vector<UniqueFd> sockets, in_netns_thread(*pod.netns, [] { return take_listeners(); }));
    for (uint32_t slot = 0; slot < sockets.size() && slot < ZT_LISTENER_SLOTS; ++slot) {
      ZT_TRY(programs.put_listener(found.cookie, slot, sockets[slot].get()));
    }
  }
  entry.flags = flags_of(pod.options) | (entry.flags & ZT_SET_MARKS);
  entry.own4 = found.own4;
  entry.own6 = found.own6;
  return programs.put_pod(found.cookie, entry);
}

// Nothing is installed, so nothing is in the pod: no value. Anything else is an error.
Result<std::optional<Programs>> EbpfRedirector::installed() const {
  auto programs = Programs::open(settings_.bpffs);
  if (programs) return std::optional(std::move(*programs));
  if (programs.error().reason == Reason::kNotFound) return std::optional<Programs>();
  return std::unexpected(programs.error());
}

Result<> EbpfRedirector::stop_capturing(const RedirectedPod& pod) {
  ZT_ASSIGN(auto programs, installed());
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
  ZT_ASSIGN(auto programs, installed());
  if (!programs) return {};
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [] { return look_at_namespace(); }));
  const auto entry = programs->pod(found.cookie);
  if (entry && (entry->flags & ZT_SET_MARKS) != 0) {
    ZT_TRY(in_netns_thread(*pod.netns, [] { return set_answers_keep_marks(false); }));
  }
  programs->remove_pod(found.cookie);
  return programs->detach_inbound(found.cookie);  // last: a sweep goes by it
}

Result<> EbpfRedirector::unenroll(const RedirectedPod& pod) {
  ZT_TRY(make_way(pod));
  return in_netns_thread(*pod.netns, [] { return remove_policy_routes(); });
}

Result<Presence> EbpfRedirector::presence(const RedirectedPod& pod) {
  ZT_ASSIGN(const auto programs, installed());
  if (!programs) return Presence::kNone;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [] { return look_at_namespace(); }));
  const auto entry = programs->pod(found.cookie);
  if (entry) return (entry->flags & ZT_CAPTURES) != 0 ? Presence::kCaptures : Presence::kStopped;
  return programs->has_inbound(found.cookie) ? Presence::kStopped : Presence::kNone;
}

Result<Deviations> EbpfRedirector::verify(const RedirectedPod& pod) {
  Deviations deviations;
  ZT_ASSIGN(const Cgroup group, find_cgroup(settings_.cgroup));
  bool marks = false, proxy = false;
  ZT_ASSIGN(const PodNamespace found, in_netns_thread(*pod.netns, [&]() -> Result<PodNamespace> {
              ZT_ASSIGN(deviations, verify_policy_routes(pod.options.ipv6));
              marks = answers_keep_marks();
              ZT_ASSIGN(proxy, has_proxy());
              return look_at_namespace();
            }));
  if (!marks)
    deviations.push_back("answers do not keep marks (net.ipv4.tcp_fwmark_accept, fwmark_reflect), so that they go astray");
  auto programs = Programs::open(settings_.bpffs);
  if (!programs) {
    deviations.push_back("missing eBPF programs: " + programs.error().text);
    return deviations;
  }
  look_around_now_and_then(*programs, group);
  for (auto& deviation : programs->verify(group)) deviations.push_back(std::move(deviation));
  if (!programs->is_inbound_attached(found.cookie, *pod.netns))
    deviations.push_back("missing eBPF program in the pod's namespace");
  if (proxy && !programs->has_listener(found.cookie)) deviations.push_back("no listener in the eBPF map, though a proxy listens");
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
