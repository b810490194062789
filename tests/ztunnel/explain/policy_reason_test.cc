#include "ztunnel/explain/policy_reason.h"

#include <catch2/catch.hpp>

#include <random>

namespace zt::ztunnel {
namespace {

using namespace workload_api;

constexpr const char* kNames[] = {"a", "b", "c"};

class Random {
 public:
  explicit Random(uint32_t seed) : random_(seed) {}
  uint32_t below(uint32_t limit) { return std::uniform_int_distribution<uint32_t>(0, limit - 1)(random_); }

  template <class T, class Make>
  std::vector<T> some(Make make) {
    std::vector<T> values;
    if (below(4) != 0) return values;
    for (uint32_t n = 1 + below(2); n > 0; --n) values.push_back(make());
    return values;
  }
  StringMatch text() { return {static_cast<StringMatch::Kind>(below(4)), kNames[below(3)]}; }
  ServiceAccountMatch account() { return {kNames[below(3)], kNames[below(3)]}; }
  Cidr block() { return {IpAddress::v4(0x0a000000 + below(4)), static_cast<uint8_t>(30 + below(3))}; }
  uint16_t port() { return static_cast<uint16_t>(1 + below(3)); }

  PolicyMatch match() {
    const auto text_match = [this] { return text(); };
    const auto principal = [this] {
      const std::string ns = kNames[below(3)], account = kNames[below(3)];
      return StringMatch{StringMatch::Kind::kExact, "td/ns/" + ns + "/sa/" + account};
    };
    const auto account_match = [this] { return account(); };
    const auto block_match = [this] { return block(); };
    const auto port_match = [this] { return port(); };
    PolicyMatch made;
    made.namespaces = some<StringMatch>(text_match);
    made.not_namespaces = some<StringMatch>(text_match);
    made.principals = some<StringMatch>(principal);
    made.not_principals = some<StringMatch>(principal);
    made.service_accounts = some<ServiceAccountMatch>(account_match);
    made.not_service_accounts = some<ServiceAccountMatch>(account_match);
    made.source_ips = some<Cidr>(block_match);
    made.not_source_ips = some<Cidr>(block_match);
    made.destination_ips = some<Cidr>(block_match);
    made.not_destination_ips = some<Cidr>(block_match);
    made.destination_ports = some<uint16_t>(port_match);
    made.not_destination_ports = some<uint16_t>(port_match);
    return made;
  }
  Authorization policy() {
    Authorization made;
    for (uint32_t r = below(3); r > 0; --r) {
      auto& rule = made.rules.emplace_back();
      for (uint32_t c = below(3); c > 0; --c) {
        auto& clause = rule.emplace_back();
        for (uint32_t m = below(3); m > 0; --m) clause.push_back(match());
      }
    }
    return made;
  }

 private:
  std::mt19937 random_;
};

TEST_CASE("what is said of a policy is what the proxy's matcher decides, and each miss is a field that does not hold") {
  Random random(7);
  size_t matched = 0, missed = 0;
  for (int i = 0; i < 20'000; ++i) {
    const Authorization policy = random.policy();
    const std::string id = std::string("spiffe://td/ns/") + kNames[random.below(3)] + "/sa/" + kNames[random.below(3)];
    PolicySubject subject{.source_ip = IpAddress::v4(0x0a000000 + random.below(4)),
                          .destination = {IpAddress::v4(0x0a000000 + random.below(4)), random.port()},
                          .peer = {}};
    if (random.below(4) != 0) subject.peer = *SpiffeView::parse(id);
    const PolicyReason reason = policy_reason(policy, subject);
    REQUIRE(reason.matches == PolicyMatcher(policy.rules).matches(subject));
    if (reason.matches) {
      ++matched;
      REQUIRE(reason.rule);
      continue;
    }
    REQUIRE(reason.rules.size() == policy.rules.size());
    for (size_t r = 0; r < reason.rules.size(); ++r) {
      const RuleReason& rule = reason.rules[r];
      REQUIRE_FALSE(rule.holds);
      REQUIRE(rule.clause < policy.rules[r].size());
      REQUIRE(rule.misses.size() == policy.rules[r][rule.clause].size());
      for (const MatchMiss& miss : rule.misses) {
        const bool empty = policy.rules[r][rule.clause][miss.match] == PolicyMatch{};
        REQUIRE(miss.fields.empty() == empty);
        ++missed;
      }
    }
  }
  CHECK(matched > 1000);
  CHECK(missed > 1000);
}

}  // namespace
}  // namespace zt::ztunnel
