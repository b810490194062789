#include "redirection/nftables/host_probes.h"

#include "redirection/constants.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::redirection;
using namespace zt::testing;
using Catch::Contains;

namespace {

struct Fixture : TestPod {
  std::shared_ptr<const Netns> node = std::make_shared<const Netns>(make_netns());
  HostProbes probes{node};

  void apply(const std::vector<std::pair<std::string, std::string>>& pods, std::set<uid_t> kubelets = {0}) {
    ProbedPods probed;
    for (const auto& [ip, uid] : pods) probed.emplace(*IpAddress::parse(ip), uid);
    const auto applied = probes.apply(probed, kubelets);
    INFO(error_text(applied));
    REQUIRE(applied);
  }
  [[nodiscard]] bool holds() { return probes.holds().value(); }
  [[nodiscard]] std::string table() const { return sh(*node, "nft -s list ruleset"); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "root: the node's sets hold the pods' addresses with their uids, and follow them") {
  ZT_NEEDS_ROOT("network namespaces");
  apply({});
  CHECK(holds());
  apply({{"10.0.0.1", "u-1"}, {"fd00::1", "u-1"}, {"10.0.0.2", "u-2\" }; drop"}}, {0, 17});
  CHECK(holds());
  const std::string all = table();
  CHECK_THAT(all, Contains("10.0.0.1 comment \"u-1\"") && Contains("fd00::1 comment \"u-1\""));
  CHECK_THAT(all, Contains("10.0.0.2 comment \"u-2drop\""));
  CHECK_THAT(all, Contains("snat ip to 169.254.7.127") && Contains("snat ip6 to fd16:9254:7127:1337:ffff:ffff:ffff:ffff"));
  apply({{"10.0.0.1", "u-3"}});
  CHECK_THAT(table(), Contains("10.0.0.1 comment \"u-3\"") && !Contains("10.0.0.2") && !Contains("fd00::1"));
  CHECK(HostProbes::remove(*node));
  CHECK(table().empty());
  CHECK(HostProbes::remove(*node));
}

TEST_CASE_METHOD(Fixture, "root: what somebody does to the rules is seen, and applying again puts them back") {
  ZT_NEEDS_ROOT("network namespaces");
  apply({{"10.0.0.1", "u-1"}});
  sh(*node, GENERATE("nft flush ruleset", "nft flush table inet istio-ambient-nat",
                     "nft flush set inet istio-ambient-nat istio-inpod-probes-v4",
                     "nft add element inet istio-ambient-nat istio-inpod-probes-v4 '{ 10.9.9.9 }'"));
  CHECK_FALSE(holds());
  apply({{"10.0.0.1", "u-1"}});
  CHECK(holds());
  CHECK_THAT(table(), Contains("10.0.0.1 comment") && !Contains("10.9.9.9"));
}

TEST_CASE_METHOD(Fixture, "root: what an istio-cni before us has left in its table is taken over") {
  ZT_NEEDS_ROOT("network namespaces");
  sh(*node,
     "nft -f - <<'END'\ntable inet istio-ambient-nat {\n set istio-inpod-probes-v4 { type ipv4_addr; elements = { 10.0.0.9 "
     "comment \"x\" } }\n"
     " chain postrouting {\n  type nat hook postrouting priority 100;\n  meta l4proto tcp skuid 0 ip daddr "
     "@istio-inpod-probes-v4 snat "
     "to "
     "169.254.7.127\n }\n}\nEND\n");
  apply({{"10.0.0.1", "u-1"}});
  CHECK_THAT(table(), Contains("10.0.0.1 comment") && !Contains("10.0.0.9"));
}
