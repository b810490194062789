#include "redirection/nftables/nftables.h"

#include <catch2/catch.hpp>
#include <regex>
#include <string>

#include "redirection/constants.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::redirection;
using namespace zt::testing;
using Catch::Contains;

namespace {

struct Fixture : TestPod {
  NftablesRedirector nft;

  [[nodiscard]] RedirectedPod target(RedirectionOptions options = {}) const { return {pod, std::move(options)}; }
  void enroll(RedirectionOptions options = {}) {
    const auto result = nft.enroll(target(std::move(options)));
    INFO(error_text(result));
    REQUIRE(result);
  }
  Deviations verify(RedirectionOptions options = {}) {
    auto result = nft.verify(target(std::move(options)));
    INFO(error_text(result));
    REQUIRE(result);
    return std::move(*result);
  }
};

}  // namespace

TEST_CASE("root: with the real agent's options the kernel holds the real agent's rules") {
  ZT_NEEDS_ROOT("loading rules into a namespace");
  Fixture pod;
  pod.enroll({.dns = true, .cut_established = true});
  // nft 1.1 has a name for this priority in output chains too.
  const auto named = [](const std::string& rules) {
    return std::regex_replace(rules, std::regex("priority -100;"), "priority dstnat;");
  };
  const auto golden = read_file(ZT_GOLDEN_DIR "/redirection/pod-native-nft.nft.txt");
  const std::regex counters("counter packets [0-9]+ bytes [0-9]+");
  CHECK(named(sh(*pod.pod, "nft -s list ruleset")) == named(std::regex_replace(golden, counters, "counter")));

  std::string routes;
  for (const char* command : {"ip -4 rule", "ip -4 route show table 100", "ip -6 rule", "ip -6 route show table 100"}) {
    routes += std::string("## ") + command + "\n" + sh(*pod.pod, command);
  }
  CHECK(routes == read_file(ZT_GOLDEN_DIR "/redirection/pod-native-nft.ip-rules-routes.txt"));
}

TEST_CASE("root: verification names what was changed behind our back, and enrolling again repairs it") {
  ZT_NEEDS_ROOT("network namespaces");
  struct Row {
    const char* name;
    const char* command;
    const char* deviation;
  };
  const Row row =
      GENERATE(Row{"everything gone", "nft flush ruleset", "missing nftables table istio-ambient-nat"},
               Row{"a table gone", "nft delete table inet istio-ambient-mangle", "missing nftables table istio-ambient-mangle"},
               Row{"a table emptied", "nft flush table inet istio-ambient-nat",
                   "missing in nftables table istio-ambient-nat: prerouting: jump istio-prerouting"},
               Row{"a rule gone",
                   "nft delete rule inet istio-ambient-nat istio-output handle $(nft -a list table inet "
                   "istio-ambient-nat | "
                   "sed -n 's/.*ip daddr .*:15001 # handle //p')",
                   "missing in nftables table istio-ambient-nat: istio-output: ip daddr != "
                   "127.0.0.1"},
               Row{"a rule that lets all pass", "nft insert rule inet istio-ambient-nat istio-output accept",
                   "unexpected in nftables table istio-ambient-nat: istio-output: accept"},
               Row{"a rule doubled",
                   "nft add rule inet istio-ambient-mangle istio-output 'ct mark & 0xfff == 0x111 counter meta mark "
                   "set ct mark'",
                   "unexpected in nftables table istio-ambient-mangle: istio-output: ct mark"},
               Row{"a chain of somebody else's", "nft add chain inet istio-ambient-nat extra",
                   "unexpected in nftables table istio-ambient-nat: chain extra"},
               Row{"a table dormant", "nft add table inet istio-ambient-nat '{ flags dormant; }'",
                   "unexpected in nftables table istio-ambient-nat: : flags dormant"},
               Row{"left-over DNS table", "nft add table inet istio-ambient-raw", "unexpected nftables table istio-ambient-raw"},
               Row{"IPv4 rule gone", "ip rule del pref 32764", "missing IPv4 rule: fwmark 0x111/0xfff lookup 100"},
               Row{"IPv6 rule gone", "ip -6 rule del pref 32764", "missing IPv6 rule"},
               Row{"IPv4 route gone", "ip route flush table 100", "missing IPv4 route: local default dev lo table 100"},
               Row{"IPv6 route gone", "ip -6 route flush table 100", "missing IPv6 route"},
               Row{"lo down and up", "ip link set lo down && ip link set lo up", "missing IPv6 route"});
  INFO(row.name);
  Fixture pod;
  pod.enroll();
  REQUIRE(pod.verify().empty());
  sh(*pod.pod, row.command);
  const auto deviations = pod.verify();
  std::string said;
  for (const auto& deviation : deviations) said += deviation + "\n";
  CHECK_THAT(said, Contains(row.deviation));
  pod.enroll();
  CHECK(pod.verify().empty());
}

TEST_CASE("root: rules in another order are noticed") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture pod;
  pod.enroll();
  sh(*pod.pod,
     "nft delete rule inet istio-ambient-nat istio-output handle $(nft -a list table inet istio-ambient-nat "
     "| sed -n "
     "'s/.*oifname \"lo\" ip daddr .*accept # handle //p') && nft add rule inet istio-ambient-nat "
     "istio-output "
     "oifname lo ip daddr != 127.0.0.1 counter accept");
  const auto deviations = pod.verify();
  REQUIRE(deviations.size() == 1);
  CHECK_THAT(deviations[0], Contains("in another order"));
}

TEST_CASE("root: a pod that was never enrolled lacks everything") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture pod;
  CHECK(pod.verify().size() == 6);
  CHECK(pod.nft.unenroll(pod.target()));
  CHECK(pod.nft.stop_capturing(pod.target()));
  CHECK(pod.nft.unenroll(pod.target()));
  CHECK(sh(*pod.pod, "nft list ruleset").empty());
}

TEST_CASE("root: the probe says whether nftables works here") {
  ZT_NEEDS_ROOT("network namespaces");
  NftablesRedirector nft;
  const auto probed = nft.probe();
  INFO(error_text(probed));
  CHECK(probed);
}

TEST_CASE("without privileges the probe says what is missing") {
  std::array<int, 2> pipe{};
  REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
  const UniqueFd read_end(pipe[0]);
  UniqueFd write_end(pipe[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(1);
    NftablesRedirector nft;
    const auto probed = nft.probe();
    const std::string text = probed ? "works" : probed.error().text;
    ::_exit(::write(write_end.get(), text.data(), text.size()) < 0 ? 2 : 0);
  }
  write_end.reset();
  std::string said(1000, '\0');
  said.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(read_end.get(), said.data(), said.size()))));
  ::waitpid(child, nullptr, 0);
  CHECK_THAT(said, Contains("CAP_SYS_ADMIN") && Contains("nftables redirection does not work here"));
}
