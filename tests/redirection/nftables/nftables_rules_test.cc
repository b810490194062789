#include "redirection/nftables/nftables_rules.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::redirection;
using Catch::Contains;

TEST_CASE("the pod's rules are one text that replaces our tables and touches no other") {
  CHECK(render_pod_rules({}) == testing::read_file(ZT_GOLDEN_DIR "/redirection/pod-rules.nft"));
  CHECK(render_pod_rules(
            {.dns = true, .ingress = false, .ipv6 = false, .cut_established = true, .virtual_interfaces = {"k6t-eth0"}}) ==
        testing::read_file(ZT_GOLDEN_DIR "/redirection/pod-rules-dns-v4-virtual-cut.nft"));
}

TEST_CASE("options change exactly what they say") {
  const std::string plain = render_pod_rules({});
  CHECK_THAT(plain, !Contains("15053") && !Contains("table inet istio-ambient-raw {"));
  CHECK_THAT(render_pod_rules({.dns = true}),
             Contains("udp dport 53 counter redirect to :15053") && Contains("table inet istio-ambient-raw {"));

  const std::string ingress = render_pod_rules({.ingress = true});
  CHECK_THAT(ingress, !Contains("15006") && !Contains("saddr"));
  // The way back for connections from tunnels stays.
  CHECK_THAT(ingress, Contains("ct mark set ct mark") && Contains("daddr 169.254.7.127") && Contains(":15001"));

  CHECK_THAT(render_pod_rules({.ipv6 = false}), !Contains("ip6"));
  CHECK_THAT(render_pod_rules({.cut_established = true}), !Contains("tcp flags"));
}

TEST_CASE("every redirection of TCP looks at first packets only") {
  const std::string rules = render_pod_rules({.dns = true, .virtual_interfaces = {"net1"}});
  size_t redirects = 0;
  for (size_t at = rules.find("redirect"); at != std::string::npos; at = rules.find("redirect", at + 1)) {
    const size_t start = rules.rfind('\n', at) + 1;
    const std::string rule = rules.substr(start, rules.find('\n', at) - start);
    INFO(rule);
    CHECK((rule.find("tcp flags syn / fin,syn,rst,ack") != std::string::npos || rule.find("udp") != std::string::npos));
    ++redirects;
  }
  CHECK(redirects == 8);
}

TEST_CASE("interface names that could mean something else to nft are refused") {
  for (const char* name : {"eth0", "k6t-eth0", "net1@if3", "a.b_c:1", "fifteen-letters"}) {
    INFO(name);
    CHECK(valid_interface_name(name));
  }
  for (const char* name : {"", ".", "..", "sixteen-letters-", "a b", "a\"b", "eth*", "a/b", "a\nb", "a;b", "\xc3\xa4"}) {
    INFO(name);
    CHECK_FALSE(valid_interface_name(name));
  }
}

TEST_CASE("what is excluded is let go before anything redirects it, in the families that are captured") {
  RedirectionOptions options{.dns = true};
  options.inbound = {.ports = {{80, 80}, {8000, 8080}}, .ranges = {*Cidr::parse("10.0.0.0/8")}};
  options.outbound = {.ports = {{25, 25}}, .ranges = {*Cidr::parse("fd00::/8")}};
  const std::string rules = render_pod_rules(options);
  const auto before = [&](std::string_view first, std::string_view second) {
    CAPTURE(first, second);
    REQUIRE(rules.find(first) != std::string::npos);
    CHECK(rules.find(first) < rules.find(second));
  };
  before("meta l4proto { tcp, udp } th dport 8000-8080 counter accept", "redirect to :15006");
  before("ip saddr 10.0.0.0/8 counter accept", "redirect to :15006");
  before("meta l4proto { tcp, udp } th dport 25-25 counter accept", "redirect to :15053");
  before("ip6 daddr fd00::/8 counter accept", "redirect to :15053");
  options.ipv6 = false;
  CHECK_THAT(render_pod_rules(options), !Contains("fd00"));
  options.ingress = true;
  CHECK_THAT(render_pod_rules(options), !Contains("8000"));
}
