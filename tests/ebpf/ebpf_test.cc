#include "ebpf/ebpf.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/netns/bpffs.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::redirection;
using namespace zt::testing;
using Catch::Contains;

// What all backends promise is in tests/redirection/backends/.

TEST_CASE("root: an eBPF pod has no netfilter rule, and nothing of it outlives the pod's leaving") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  const auto settings = [&] {
    return sh(*pod.pod, "cat /proc/sys/net/ipv4/tcp_fwmark_accept /proc/sys/net/ipv4/fwmark_reflect");
  };
  const auto before = settings();
  const auto enrolled = ebpf.enroll({pod.pod, {}});
  INFO(error_text(enrolled));
  REQUIRE(enrolled);
  CHECK(sh(*pod.pod, "nft list ruleset").empty());
  if (can_try_legacy_iptables()) CHECK(sh(*pod.pod, "iptables-legacy-save").empty());
  CHECK(settings() == "1\n1\n");
  const std::string pods = own_bpffs() + "/ztunnel-1/pods";
  CHECK_FALSE(std::filesystem::is_empty(pods));
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
  CHECK(settings() == before);
  CHECK(std::filesystem::is_empty(pods));
  CHECK(sh(*pod.pod, "ip rule; ip -6 rule").find("lookup 100") == std::string::npos);
}

TEST_CASE("root: what was taken out of eBPF redirection is named, and enrolling again repairs it") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  struct Row {
    const char* command;  // in the pod; B is the folder of pins
    const char* deviation;
  };
  const Row row = GENERATE(Row{"rm $B/pods/*", "missing eBPF program in the pod's namespace"},
                           Row{"rm $B/links/zt_connect6", "missing eBPF program on the cgroup: zt_connect6"},
                           Row{"rm -r $B/links $B/maps", "missing eBPF programs"},
                           Row{"ip addr add 10.99.7.7/32 dev eth0", "the pod's addresses in the eBPF map"},
                           Row{"echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept", "answers do not keep marks"},
                           Row{"ip rule del pref 32764", "missing IPv4 rule"});
  INFO(row.command);
  const Bpffs bpffs;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  CHECK(*ebpf.verify({pod.pod, {}}) == Deviations{});
  sh(*pod.pod, "B=" + bpffs.path() + "/ztunnel-1; " + row.command);
  const auto deviations = ebpf.verify({pod.pod, {}});
  REQUIRE(deviations);
  std::string said;
  for (const auto& deviation : *deviations) said += deviation + "\n";
  CHECK_THAT(said, Contains(row.deviation));
  const auto repaired = ebpf.enroll({pod.pod, {}});
  INFO(error_text(repaired));
  REQUIRE(repaired);
  CHECK(*ebpf.verify({pod.pod, {}}) == Deviations{});
}

TEST_CASE("root: programs that were taken off the cgroup come back for all pods at once") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  TestPod pod, other;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  REQUIRE(ebpf.enroll({other.pod, {}}));
  std::filesystem::remove_all(bpffs.path() + "/ztunnel-1/links");
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  CHECK(*ebpf.verify({other.pod, {}}) == Deviations{});
  const UniqueFd proxy = listen_in(*other.pod, kOutboundPort, kProxyMark);
  const UniqueFd client = connect_in(*other.pod, {TestPod::peer_ip(false), 8080});
  CHECK(accept_from(proxy));
}

TEST_CASE("root: eBPF redirection is installed whole or not at all") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  // Attaching fails after the programs were loaded and the maps pinned: this is no cgroup.
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = "/tmp"});
  const auto probed = ebpf.probe();
  REQUIRE_FALSE(probed);
  CHECK_THAT(probed.error().text,
             Contains("eBPF redirection does not work here") && Contains("attach zt_connect4 to the cgroup"));
  for (const auto& entry : std::filesystem::directory_iterator(bpffs.path())) {
    CHECK_THAT(entry.path().filename().string(), !Contains("ztunnel"));
  }
}

TEST_CASE("without a bpf file system eBPF redirection says what is missing, and nothing is in any pod") {
  EbpfRedirector ebpf({.bpffs = "/tmp"});
  const auto probed = ebpf.probe();
  REQUIRE_FALSE(probed);
  CHECK_THAT(probed.error().text, Contains("no bpf file system is mounted at /tmp"));
  CHECK(*ebpf.presence({}) == Presence::kNone);
}

TEST_CASE("virtual interfaces and cutting are not for eBPF") {
  const EbpfRedirector ebpf;
  CHECK(ebpf.unsuited({}).empty());
  CHECK_FALSE(ebpf.unsuited({.virtual_interfaces = {"tap0"}}).empty());
  CHECK_FALSE(ebpf.unsuited({.cut_established = true}).empty());
}

TEST_CASE("root: without a proxy an eBPF pod's new connections are refused both ways") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const bool v6 = GENERATE(false, true);
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  const UniqueFd pod_app = listen_in(*pod.pod, 8080), peer_app = listen_in(pod.peer, 8080);
  {
    const UniqueFd listener = listen_in(*pod.pod, kInboundPlaintextPort, kProxyMark);
    REQUIRE(ebpf.enroll({pod.pod, {}}));
    const UniqueFd client = connect_in(pod.peer, {TestPod::pod_ip(v6), 8080});
    CHECK(accept_from(listener));  // it listened before the pod was enrolled
  }
  CHECK_FALSE(connect_in(pod.peer, {TestPod::pod_ip(v6), 8080}));
  CHECK_FALSE(connect_in(*pod.pod, {TestPod::peer_ip(v6), 8080}));
  CHECK(nobody_at(pod_app));
  CHECK(nobody_at(peer_app));
  // The next one enters itself.
  const UniqueFd listener = listen_in(*pod.pod, kInboundPlaintextPort, kProxyMark);
  const UniqueFd client = connect_in(pod.peer, {TestPod::pod_ip(v6), 8080});
  CHECK(accept_from(listener));
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}

TEST_CASE("root: a socket that was refused and dials again goes where it dials last") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const bool v6 = GENERATE(false, true);
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  const auto client = in_netns(
      *pod.pod, [&]() -> Result<UniqueFd> { return UniqueFd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  REQUIRE(client);
  const auto dial = [&](uint16_t port) {
    sockaddr_storage address;
    const socklen_t length = SocketAddress{TestPod::peer_ip(v6), port}.to_sockaddr(address);
    return ::connect(client->get(), reinterpret_cast<const sockaddr*>(&address), length);
  };
  REQUIRE(dial(8080) != 0);  // no proxy
  const UniqueFd proxy = listen_in(*pod.pod, kOutboundPort, kProxyMark);
  REQUIRE(dial(8081) == 0);
  const UniqueFd captured = accept_from(proxy);
  REQUIRE(captured);
  CHECK(original_destination(captured, v6) == SocketAddress{TestPod::peer_ip(v6), 8081});
  CHECK(peer_of(*client) == SocketAddress{TestPod::peer_ip(v6), 8081});
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}

TEST_CASE("root: the address of a connected socket's peer stays what it is when it asks a name server besides") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {.dns = true}}));
  const auto socket =
      in_netns(*pod.pod, [&]() -> Result<UniqueFd> { return UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
  REQUIRE(socket);
  sockaddr_storage address;
  socklen_t length = SocketAddress{TestPod::peer_ip(false), 9999}.to_sockaddr(address);
  REQUIRE(::connect(socket->get(), reinterpret_cast<const sockaddr*>(&address), length) == 0);
  length = SocketAddress{TestPod::peer_ip(false), 53}.to_sockaddr(address);
  ::sendto(socket->get(), "?", 1, 0, reinterpret_cast<const sockaddr*>(&address), length);
  CHECK(peer_of(*socket) == SocketAddress{TestPod::peer_ip(false), 9999});
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}

// docs/limits.md says so.
TEST_CASE("root: with eBPF a pod has as many captured connections at once as local ports, to all destinations together") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  sh(*pod.pod, "echo 40000 40049 > /proc/sys/net/ipv4/ip_local_port_range");
  const UniqueFd proxy = listen_in(*pod.pod, kOutboundPort, kProxyMark);
  std::vector<UniqueFd> open;
  for (uint16_t port = 8000; port < 8100; ++port) {
    UniqueFd client = connect_in(*pod.pod, {TestPod::peer_ip(false), port});
    if (!client) break;
    open.push_back(std::move(client));
    open.push_back(accept_from(proxy));
    REQUIRE(open.back());
  }
  CHECK(open.size() == 2 * 50);
  open.clear();
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}
