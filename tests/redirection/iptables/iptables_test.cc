#include "redirection/iptables/iptables.h"

#include <fcntl.h>
#include <sys/file.h>

#include <catch2/catch.hpp>
#include <regex>
#include <string>

#include "redirection/iptables/run_program.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::redirection;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

// Without comments (which hold the time) and counters.
std::string plain(const std::string& text) {
  const std::string without_comments = std::regex_replace(text, std::regex("#[^\n]*\n"), "");
  return std::regex_replace(without_comments, std::regex("\\[[0-9]+:[0-9]+\\]"), "[0:0]");
}

std::string golden(const char* name) { return read_file(std::string(ZT_GOLDEN_DIR "/redirection/") + name); }

void enroll(IptablesRedirector& iptables, const TestPod& pod, RedirectionOptions options = {}) {
  const auto enrolled = iptables.enroll({pod.pod, std::move(options)});
  INFO(error_text(enrolled));
  REQUIRE(enrolled);
}

}  // namespace

TEST_CASE("root: with the real agent's options iptables-save prints what it prints after the real agent") {
  ZT_NEEDS_ROOT("loading rules into a namespace");
  if (!can_try_legacy_iptables()) return;
  TestPod pod;
  IptablesRedirector iptables("legacy");
  enroll(iptables, pod, {.dns = true, .cut_established = true});
  CHECK(plain(sh(*pod.pod, "iptables-legacy-save")) == plain(golden("pod.iptables-legacy-save.txt")));
  CHECK(plain(sh(*pod.pod, "ip6tables-legacy-save")) == plain(golden("pod.ip6tables-legacy-save.txt")));
}

TEST_CASE("root: the nft variant has the real agent's rules too") {
  ZT_NEEDS_ROOT("loading rules into a namespace");
  TestPod pod;
  IptablesRedirector iptables("nft");
  enroll(iptables, pod, {.dns = true, .cut_established = true});
  CHECK(parse_iptables_save(sh(*pod.pod, "iptables-nft-save")) == parse_iptables_save(golden("pod.iptables-legacy-save.txt")));
  CHECK(parse_iptables_save(sh(*pod.pod, "ip6tables-nft-save")) == parse_iptables_save(golden("pod.ip6tables-legacy-save.txt")));
}

TEST_CASE("iptables rules change with the options as they say") {
  const std::string rules = render_iptables_rules({}, false, {});
  CHECK_THAT(rules, !Contains("15053") && !Contains("*raw"));
  CHECK_THAT(
      rules,
      Contains("! --dport 15008 --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006"));
  CHECK_THAT(rules, Contains("! -d 127.0.0.1/32 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark"));
  CHECK_THAT(render_iptables_rules({.ingress = true}, true, {}), !Contains("15006") && !Contains("-s ") && Contains("-d fd16:"));
  CHECK_THAT(render_iptables_rules({.virtual_interfaces = {"tap0"}}, false, {}),
             Contains("-A ISTIO_PRERT -i tap0 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REDIRECT --to-ports 15001\n"
                      "-A ISTIO_PRERT -i tap0 -p tcp -j RETURN\n"));
  // What is left over of DNS goes; a jump that is there is not made twice, and one that is there twice loses one.
  const IptablesRules present{
      {"raw", {":ISTIO_PRERT", "-A PREROUTING -j ISTIO_PRERT"}},
      {"nat", {"-A OUTPUT -j ISTIO_OUTPUT", "-A PREROUTING -j ISTIO_PRERT", "-A PREROUTING -j ISTIO_PRERT"}}};
  const std::string again = render_iptables_rules({}, false, present);
  CHECK_THAT(again, Contains("*raw\n:ISTIO_PRERT - [0:0]\n-D PREROUTING -j ISTIO_PRERT\n-X ISTIO_PRERT\nCOMMIT\n"));
  CHECK_THAT(again, Contains("*nat\n:ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-D PREROUTING -j ISTIO_PRERT\n-A ISTIO_"));
}

TEST_CASE("what is excluded from iptables' redirection comes before what redirects") {
  RedirectionOptions options{.dns = true};
  options.inbound = {.ports = {{8000, 8080}}, .ranges = {*Cidr::parse("10.0.0.0/8")}};
  options.outbound = {.ports = {{25, 25}}, .ranges = {*Cidr::parse("fd00::/8")}};
  const std::string v4 = render_iptables_rules(options, false, {}), v6 = render_iptables_rules(options, true, {});
  CHECK(v4.find("-A ISTIO_PRERT -p tcp -m tcp --dport 8000:8080 -j ACCEPT") < v4.find("--to-ports 15006"));
  CHECK(v4.find("-A ISTIO_PRERT -s 10.0.0.0/8 -j ACCEPT") < v4.find("--to-ports 15006"));
  CHECK(v4.find("-A ISTIO_OUTPUT -p udp -m udp --dport 25:25 -j ACCEPT") < v4.find("--to-ports 15053"));
  CHECK(v6.find("-A ISTIO_OUTPUT -d fd00::/8 -j ACCEPT") < v6.find("--to-ports 15053"));
  CHECK_THAT(v4, !Contains("fd00"));
  CHECK_THAT(v6, !Contains("10.0.0.0"));
}

TEST_CASE("of what iptables-save prints only ours is looked at") {
  const auto rules = parse_iptables_save(
      "# comment\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n:OUTPUT ACCEPT [1:2]\n:ISTIO_OUTPUT - "
      "[3:4]\n:OTHER - [0:0]\n"
      "-A OUTPUT -j OTHER\n-A OUTPUT -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j ACCEPT\n-A OTHER -g ISTIO_OUTPUT\nCOMMIT\ngarbage\n-A");
  CHECK(rules ==
        IptablesRules{
            {"nat", {":ISTIO_OUTPUT", "-A OUTPUT -j ISTIO_OUTPUT", "-A ISTIO_OUTPUT -j ACCEPT", "-A OTHER -g ISTIO_OUTPUT"}}});
  CHECK(parse_iptables_save("").empty());
}

TEST_CASE("root: the variant is chosen by rules of others, never by ours") {
  ZT_NEEDS_ROOT("network namespaces");
  struct Row {
    const char* commands;
    const char* save_that_shows_ours;
  };
  const Row row = GENERATE(
      Row{"true", "iptables-nft-save"}, Row{"iptables-legacy -w 10 -t filter -A INPUT -p 254 -j RETURN", "iptables-legacy-save"},
      Row{"iptables-legacy -w 10 -t nat -N ISTIO_OUTPUT && iptables-legacy -w 10 -t nat -A OUTPUT -j ISTIO_OUTPUT",
          "iptables-nft-save"},
      Row{"iptables-nft -t filter -A INPUT -p 254 -j RETURN", "iptables-nft-save"});
  INFO(row.commands);
  if (std::string_view(row.save_that_shows_ours) == "iptables-legacy-save" && !can_try_legacy_iptables()) return;
  if (std::string_view(row.commands).starts_with("iptables-legacy") && !can_try_legacy_iptables()) return;
  const Netns node = make_netns();
  sh(node, row.commands);
  IptablesRedirector iptables;
  const auto probed = in_netns_thread(node, [&] { return iptables.probe(); });
  INFO(error_text(probed));
  REQUIRE(probed);
  TestPod pod;
  enroll(iptables, pod);
  CHECK_THAT(sh(*pod.pod, row.save_that_shows_ours), Contains("ISTIO_OUTPUT"));
}

TEST_CASE("root: what was changed in iptables behind our back is named, and enrolling again repairs it") {
  ZT_NEEDS_ROOT("network namespaces");
  const char* variant = GENERATE(as<const char*>{}, "legacy", "nft");
  struct Row {
    const char* command;  // T is iptables-<variant>
    const char* deviation;
  };
  const Row row =
      GENERATE(Row{"$T -t nat -F", "missing in iptables-V table nat: -A OUTPUT -j ISTIO_OUTPUT"},
               Row{"$T -t nat -D OUTPUT -j ISTIO_OUTPUT", "missing in iptables-V table nat: -A OUTPUT"},
               Row{"$T -t nat -A OUTPUT -j ISTIO_OUTPUT", "unexpected in iptables-V table nat: -A OUTPUT"},
               Row{"$T -t nat -I ISTIO_OUTPUT -j ACCEPT", "unexpected in iptables-V table nat: -A ISTIO_OUTPUT -j ACCEPT"},
               Row{"$T -t mangle -D ISTIO_PRERT 1", "missing in iptables-V table mangle: -A ISTIO_PRERT"},
               Row{"$T -t nat -N ISTIO_EXTRA", "unexpected in iptables-V table nat: :ISTIO_EXTRA"},
               Row{"$T -t raw -N ISTIO_OUTPUT", "unexpected in iptables-V table raw: :ISTIO_OUTPUT"},
               Row{"ip rule del pref 32764", "missing IPv4 rule"});
  INFO(variant << ": " << row.command);
  if (std::string_view(variant) == "legacy" && !can_try_legacy_iptables()) return;
  TestPod pod;
  IptablesRedirector iptables(variant);
  enroll(iptables, pod);
  REQUIRE(iptables.verify({pod.pod, {}})->empty());
  sh(*pod.pod, std::string("T='iptables-") + variant + " -w 10'; " + row.command);
  const auto deviations = iptables.verify({pod.pod, {}});
  REQUIRE(deviations);
  std::string said;
  for (const auto& deviation : *deviations)
    said += std::regex_replace(deviation, std::regex(std::string("iptables-") + variant), "iptables-V") + "\n";
  CHECK_THAT(said, Contains(row.deviation));
  enroll(iptables, pod);
  const auto repaired = iptables.verify({pod.pod, {}});
  REQUIRE(repaired);
  // A chain that somebody else made stays, and is said.
  if (std::string_view(row.command).find("EXTRA") == std::string_view::npos) CHECK(*repaired == Deviations{});
}

TEST_CASE("root: a pod that was never enrolled by iptables has nothing to remove") {
  ZT_NEEDS_ROOT("network namespaces");
  TestPod pod;
  IptablesRedirector iptables;
  CHECK(*iptables.presence({pod.pod, {}}) == Presence::kNone);
  CHECK(iptables.stop_capturing({pod.pod, {}}));
  CHECK(iptables.unenroll({pod.pod, {}}));
  CHECK(sh(*pod.pod, "nft list ruleset").empty());
  if (can_try_legacy_iptables()) CHECK(sh(*pod.pod, "iptables-legacy-save").empty());
}

TEST_CASE("an unknown variant of iptables is refused") {
  IptablesRedirector iptables("newest");
  const auto probed = iptables.probe();
  REQUIRE_FALSE(probed);
  CHECK_THAT(probed.error().text, Contains("'newest' is not a variant of iptables"));
}

TEST_CASE("a program is run with its input, and its output, errors and end are told") {
  const auto done = run_program({"sh", "-c", "cat; echo $LC_ALL $A $HOME; echo bad >&2; exit 3"}, "in ", {"A=b"});
  REQUIRE(done);
  CHECK(done->status == 3);
  CHECK(done->out == "in C b\n");
  CHECK(done->err == "bad\n");
  CHECK(run_program({"sh", "-c", "kill -9 $$"}, {})->status == 128 + 9);
}

TEST_CASE("a program that is missing, does not end or says too much is an error in words") {
  const auto missing = run_program({"no-such-program"}, {});
  REQUIRE_FALSE(missing);
  CHECK(missing.error().reason == Reason::kNotFound);
  CHECK_THAT(missing.error().text, Contains("no-such-program is not installed"));
  for (const char* endless : {"sleep 1000", "exec >&- 2>&-; sleep 1000"}) {
    INFO(endless);
    const auto done = run_program({"sh", "-c", endless}, {}, {}, 100ms);
    REQUIRE_FALSE(done);
    CHECK_THAT(done.error().text, Contains("did not end within 100 ms"));
  }
  CHECK_FALSE(run_program({"sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done"}, {}));
}

TEST_CASE("root: a pod that holds the lock of its namespace does not hold up the agent") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_legacy_iptables()) return;
  TestPod pod;
  const UniqueFd lock(in_netns_thread(*pod.pod, []() -> Result<int> {
                        return ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
                      }).value_or(-1));
  REQUIRE(::flock(lock.get(), LOCK_EX | LOCK_NB) == 0);
  IptablesRedirector iptables("legacy");
  enroll(iptables, pod);
  CHECK(iptables.verify({pod.pod, {}})->empty());
}
